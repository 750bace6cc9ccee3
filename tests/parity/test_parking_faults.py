# SPDX-License-Identifier: Apache-2.0
"""Weights that were put away and are not what they were are not used; others stay in use."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from appliance.engine.backend import DeviceOutOfMemory, Parking, ParkingFailed, WeightsLost
from tests.parity.parked import MIB, Kinds, Pretended, disk, files, pretend
from tests.parity.reference import ours, warmed


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def alter(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def alter_quietly(file: Path) -> None:
    times = file.stat()
    alter(file)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (truncate, "not as long as it was written"),
        (alter, "its checksum"),
        (alter_quietly, "its checksum"),
        (Path.unlink, "No such file"),
    ],
)
def test_a_damaged_copy_is_not_used(
    damage: Callable[[Path], None], told: str, kinds: Kinds, swap: Path
) -> None:
    backend = kinds.load("real-bfloat16")
    backend.park(disk(swap))
    (file,) = files(swap)
    damage(file)
    for _ in range(2):
        with pytest.raises(WeightsLost, match=told):
            backend.restore()
    backend.close()
    assert files(swap) == []


def exchange(file: Path) -> None:
    copy = file.with_suffix(".new")
    copy.write_bytes(file.read_bytes())
    copy.replace(file)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (truncate, "has changed since the model was loaded"),
        (alter, "has changed"),
        (Path.touch, "has changed"),
        (exchange, "has changed"),
        (Path.unlink, "has gone"),
    ],
)
def test_an_own_file_that_is_not_the_same_any_more_is_not_used(
    damage: Callable[[Path], None], told: str, own: Path, swap: Path
) -> None:
    backend = warmed(own)
    backend.park(disk(swap))
    damage(own / "model.safetensors")
    with pytest.raises(WeightsLost, match=told):
        backend.restore()


def test_weights_are_written_once_their_own_file_is_another(own: Path, swap: Path) -> None:
    backend = warmed(own)
    expected = ours(backend)
    backend.park(disk(swap))
    backend.restore()
    assert files(swap) == []
    weights = load_file(own / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, own / "other")
    (own / "other").replace(own / "model.safetensors")
    backend.park(disk(swap))
    (file,) = files(swap)
    backend.restore()
    np.testing.assert_array_equal(ours(backend), expected)
    file.unlink()
    backend.park(disk(swap))  # it is there no more: written anew
    backend.restore()
    assert files(swap) == [file]
    np.testing.assert_array_equal(ours(backend), expected)


@contextmanager
def a_disk_that_fills_up(room: int) -> Iterator[None]:
    """No file of this process may become larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_weights_where_they_are(kinds: Kinds, swap: Path) -> None:
    backend = kinds.load("real-bfloat16")
    expected = ours(backend)
    for _ in range(2):
        with (
            a_disk_that_fills_up(10 * MIB),
            pytest.raises(ParkingFailed, match=r"43 MiB of weights could not be written to"),
        ):
            backend.park(disk(swap))
        assert files(swap) == []
        assert not any(backend.parked_bytes.values())
        np.testing.assert_array_equal(ours(backend), expected)
    backend.park(disk(swap))
    backend.restore()
    np.testing.assert_array_equal(ours(backend), expected)


def test_a_folder_that_is_gone_leaves_the_weights_where_they_are(kinds: Kinds, swap: Path) -> None:
    backend = kinds.load("real-bfloat16")
    expected = ours(backend)
    swap.rmdir()
    with pytest.raises(ParkingFailed, match="No such file"):
        backend.park(disk(swap))
    np.testing.assert_array_equal(ours(backend), expected)


@pytest.mark.parametrize("tier", ["host", "disk"])
def test_weights_stay_where_they_were_put_if_the_device_is_full(
    tier: Any, kinds: Kinds, swap: Path
) -> None:
    backend = kinds.load("decoder")
    expected = ours(backend)
    link = Pretended()
    weights = pretend(backend, link)
    weights.park(Parking(tier, swap))
    link.is_full = True
    with pytest.raises(DeviceOutOfMemory, match="no room"):
        backend.restore()
    assert weights.is_parked
    link.is_full = False
    backend.restore()
    np.testing.assert_array_equal(ours(backend), expected)
