# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.parity.families import FAMILIES
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
