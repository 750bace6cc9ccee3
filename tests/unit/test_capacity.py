# SPDX-License-Identifier: Apache-2.0
"""How much memory models may take, on machines of all kinds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from appliance.engine import capacity
from appliance.engine.capacity import (
    GIB,
    MOST_OF_A_DEVICE,
    MOST_OF_MEMORY,
    available_memory,
    device_capacities,
    host_capacity,
)

FREE, TOTAL = 20 * GIB, 24 * GIB
RAM = 64 * GIB


@pytest.fixture(autouse=True)
def ram(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with so much free RAM, and a control group's folder without limits."""
    monkeypatch.setattr(
        "psutil.virtual_memory", lambda: SimpleNamespace(available=RAM, total=2 * RAM)
    )
    monkeypatch.setattr(capacity, "CONTROL_GROUP", tmp_path)
    return tmp_path


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda number: (FREE, TOTAL))


def test_without_a_limit_it_is_most_of_the_free_memory() -> None:
    assert device_capacities(None) == {"cpu": int(MOST_OF_MEMORY * RAM)}


def test_without_an_accelerator_the_limit_is_for_ram() -> None:
    assert device_capacities(0.5) == {"cpu": GIB // 2}
    assert host_capacity(0.5, offload=True) == 0  # RAM is the device; nothing is behind it


@pytest.mark.usefixtures("cards")
def test_the_limit_is_for_each_accelerator() -> None:
    cpu = {"cpu": int(MOST_OF_MEMORY * RAM)}
    assert device_capacities(4) == {"cuda:0": 4 * GIB, "cuda:1": 4 * GIB, **cpu}
    most = int(MOST_OF_A_DEVICE * FREE)
    for limit in (None, 100):
        assert device_capacities(limit) == {"cuda:0": most, "cuda:1": most, **cpu}


@pytest.mark.usefixtures("cards")
@pytest.mark.parametrize(
    ("limit", "offload", "bytes_"),
    [
        (None, False, 0),
        (24, False, 0),
        (30, False, 2 * 6 * GIB),  # what two cards lack of it
        (1000, False, int(MOST_OF_MEMORY * RAM)),  # no more than there is
        (None, True, int(MOST_OF_MEMORY * RAM)),
    ],
)
def test_what_is_more_than_the_hardware_is_taken_from_ram(
    limit: float | None, offload: bool, bytes_: int
) -> None:
    assert host_capacity(limit, offload=offload) == bytes_


def write_group(folder: Path, limit: str, used: int, cached: int) -> None:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\nslab 7\n")


def test_a_containers_limit_counts(ram: Path) -> None:
    write_group(ram, str(8 * GIB), 3 * GIB, GIB)
    assert available_memory() == 6 * GIB  # pages of files are given up when asked for


@pytest.mark.parametrize("limit", ["max", str(1000 * GIB)])
def test_a_containers_limit_above_the_machines_memory_does_not(ram: Path, limit: str) -> None:
    write_group(ram, limit, GIB, 0)
    assert available_memory() == RAM


def test_a_container_that_is_full_has_no_room(ram: Path) -> None:
    write_group(ram, str(GIB), 2 * GIB, 0)
    assert available_memory() == 0
