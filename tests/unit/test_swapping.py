# SPDX-License-Identifier: Apache-2.0
"""The folder and the files that weights are swapped to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from appliance.engine.backend import ParkingFailed, WeightsLost
from appliance.engine.swap_folder import SwapFolder
from appliance.engine.swapping import SwapFile

HOLDER = """
import sys, time
from pathlib import Path
from appliance.engine.swap_folder import SwapFolder
folder = SwapFolder(Path(sys.argv[1]))
(folder.path / "copy.weights").write_bytes(bytes(1000))
print(folder.path, flush=True)
time.sleep(600)
"""


@contextmanager
def another_process(parent: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that holds a folder of its own, with a file in it."""
    command = [sys.executable, "-c", HOLDER, str(parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()


def folders(parent: Path) -> set[Path]:
    return {path for path in parent.iterdir() if path.is_dir()}


def test_a_folder_is_made_and_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    parent = tmp_path / "not" / "there yet"
    folder = SwapFolder(parent)
    assert folders(parent) == {folder.path}
    assert str(os.getpid()) in folder.path.name
    (folder.path / "copy").write_bytes(bytes(10))
    folder.close()
    assert folders(parent) == set()
    folder.close()


def test_what_a_kill_left_behind_is_removed_and_nothing_else(tmp_path: Path) -> None:
    bystander = tmp_path / "models"
    bystander.mkdir()
    with another_process(tmp_path) as (_, living), another_process(tmp_path) as (process, dead):
        own = SwapFolder(tmp_path)
        assert folders(tmp_path) == {bystander, living, dead, own.path}
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        assert dead.exists()
        next_one = SwapFolder(tmp_path)
        assert folders(tmp_path) == {bystander, living, own.path, next_one.path}
        assert (living / "copy.weights").exists()
        own.close()
        next_one.close()


def test_a_folder_without_a_lock_was_left_behind(tmp_path: Path) -> None:
    (tmp_path / "appliance-1-half-made").mkdir()
    folder = SwapFolder(tmp_path)
    assert folders(tmp_path) == {folder.path}
    folder.close()


def test_a_link_to_another_folder_is_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    parent = tmp_path / "swap"
    parent.mkdir()
    (parent / "appliance-1-link").symlink_to(elsewhere)
    SwapFolder(parent).close()
    assert (elsewhere / "precious").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"put away in this folder.*: '.*/file/swap'"):
        SwapFolder(tmp_path / "file" / "swap")


TENSORS = (torch.arange(10, dtype=torch.float32), torch.ones(3, 5).bfloat16(), torch.tensor(True))
OFFSETS = (0, 64, 128)
SIZE = 256


@pytest.fixture
def written(tmp_path: Path) -> SwapFile:
    file = SwapFile(tmp_path)
    file.write(OFFSETS, TENSORS, SIZE)
    return file


def test_tensors_come_back_from_a_file(written: SwapFile, tmp_path: Path) -> None:
    (path,) = tmp_path.iterdir()
    assert written.nbytes == path.stat().st_size == SIZE
    assert written.is_whole
    block = written.map()
    assert block.data_ptr() % 64 == 0
    for offset, tensor in zip(OFFSETS, TENSORS, strict=True):
        view = block[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        torch.testing.assert_close(view, tensor, rtol=0, atol=0)


def test_what_is_written_to_mapped_tensors_does_not_reach_the_file(written: SwapFile) -> None:
    written.map().fill_(7)
    assert not (written.map() == 7).all()


def test_a_file_that_is_deleted_stays_mapped(written: SwapFile, tmp_path: Path) -> None:
    block = written.map()
    written.delete()
    written.delete()
    assert list(tmp_path.iterdir()) == []
    assert written.nbytes == 0
    torch.testing.assert_close(block[:40].view(torch.float32), TENSORS[0], rtol=0, atol=0)


def test_a_file_of_another_length_is_seen_at_a_glance(written: SwapFile, tmp_path: Path) -> None:
    (path,) = tmp_path.iterdir()
    os.truncate(path, SIZE + 1)
    assert not written.is_whole
    with pytest.raises(WeightsLost, match="not as long"):
        written.map()
    path.unlink()
    assert not written.is_whole
    with pytest.raises(WeightsLost, match="cannot be read: No such file"):
        written.map()


def test_a_device_without_room_leaves_no_half_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_: int) -> None:
        raise OSError(28, "No space left on device")

    file = SwapFile(tmp_path)
    monkeypatch.setattr("os.fsync", no_room)
    with pytest.raises(ParkingFailed, match=r"0\.000244 MiB.*: No space left on device"):
        file.write(OFFSETS, TENSORS, SIZE)
    assert list(tmp_path.iterdir()) == []
    assert file.nbytes == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system takes root")
def test_a_file_system_without_room_leaves_no_half_a_file(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        file = SwapFile(tmp_path)
        with pytest.raises(ParkingFailed, match="No space left on device"):
            file.write([0], [torch.ones(1 << 20)], 4 << 20)
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
