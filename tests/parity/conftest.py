# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from appliance.engine.sources import locate_model
from tests.parity.families import FAMILIES
from tests.parity.parked import Kinds
from tests.parity.reference import REAL
from tests.parity.tiny import build

Build = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models so small gain nothing from more, and those wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Makes a tiny model's folder, once for each family and whatever else is asked for."""
    folders: dict[str, Path] = {}

    def make(family: str, *more: nn.Module, **options: Any) -> Path:
        key = f"{family} {more} {options}"
        if key not in folders:
            folder = tmp_path_factory.mktemp(family)
            folders[key] = build(folder, FAMILIES[family], *more, **options)
        return folders[key]

    return make


@pytest.fixture
def kinds(built: Build, tmp_path: Path) -> Kinds:
    return Kinds(built, tmp_path)


@pytest.fixture
def swap(tmp_path: Path) -> Path:
    folder = tmp_path / "swap"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def real_folder() -> Path:
    return locate_model(REAL, revision=None, token=None, cache=None)


@pytest.fixture
def own(real_folder: Path, tmp_path: Path) -> Path:
    """A copy of the real model's folder, to be tampered with."""
    return shutil.copytree(real_folder, tmp_path / "model")
