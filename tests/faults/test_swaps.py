# SPDX-License-Identifier: Apache-2.0
"""What happens to weights on their way to disk and back must not be told by the answers."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.conftest import RunningServer, run_process
from tests.unit.tickets import until

SOURCE = "embedded:all-MiniLM-L6-v2"
NAMES = ("one", "two")
TEXTS = ["a cat sat on the mat", "parcels are returned within thirty days", "x"]
# Converted weights, which are not those of the model's own file, so that a copy is written.
MODELS = [{"model": SOURCE, "name": name, "dtype": "bfloat16"} for name in NAMES]
WEIGHTS_MIB = 46
ROOM_FOR_ONE = 1.5 * WEIGHTS_MIB / 1024


@contextmanager
def serve(swap_dir: Path, *, room: float = ROOM_FOR_ONE) -> Iterator[RunningServer]:
    """Two models in a process of their own, with room for one of them and the disk behind it."""
    flags = ["--disk-swap", "--swap-dir", str(swap_dir), "--max-cuda-memory-gib", str(room)]
    for model in MODELS:
        flags += ["--models", json.dumps(model)]
    with run_process(*flags) as server:
        yield server


def vectors(server: RunningServer, name: str) -> np.ndarray:
    answer = server.embed(model=name, input=TEXTS)
    assert answer.status_code == 200, answer.text
    return np.array([item["embedding"] for item in answer.json()["data"]], dtype=np.float32)


def swap_files(swap_dir: Path) -> list[Path]:
    return sorted(swap_dir.glob("*/*.weights"))


def states(server: RunningServer) -> dict[str, str]:
    models = httpx.get(f"{server.url}/health").json()["models"]
    return {model["name"]: model["state"] for model in models}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    with serve(tmp_path_factory.mktemp("swap"), room=1.0) as server:
        return vectors(server, "one")


def test_models_take_turns_and_answer_the_same(tmp_path: Path, expected: np.ndarray) -> None:
    with serve(tmp_path) as server:
        for name in (*NAMES, *NAMES, *NAMES):
            np.testing.assert_array_equal(vectors(server, name), expected)
            other = NAMES[name == NAMES[0]]
            assert states(server)[other] == "swapped"
        assert len(swap_files(tmp_path)) == 2
    assert not list(tmp_path.glob("appliance-*"))  # gone with the process


def damage_truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def damage_one_byte(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        byte = opened.read(1)
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte[0] ^ 1]))


def damage_remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncate,
        pytest.param(damage_one_byte, marks=pytest.mark.slow),
        pytest.param(damage_remove, marks=pytest.mark.slow),
    ],
)
def test_a_broken_swap_file_is_not_used(
    tmp_path: Path, expected: np.ndarray, damage: Callable[[Path], None]
) -> None:
    with serve(tmp_path) as server:
        until(lambda: sorted(states(server).values()) == ["idle", "swapped"])
        (parked,) = [name for name, state in states(server).items() if state == "swapped"]
        (file,) = swap_files(tmp_path)
        damage(file)
        np.testing.assert_array_equal(vectors(server, parked), expected)
        assert any("loaded anew" in line for line in server.log)
        for name in NAMES:
            np.testing.assert_array_equal(vectors(server, name), expected)


def test_a_full_disk_costs_time_and_no_answer(tmp_path: Path, expected: np.ndarray) -> None:
    with serve(tmp_path) as server:
        assert server.process is not None
        most = (WEIGHTS_MIB // 2) * 2**20
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (most, most))
        for name in (*NAMES, *NAMES):
            np.testing.assert_array_equal(vectors(server, name), expected)
        assert any("could not be written" in line for line in server.log)


def test_a_kill_in_the_middle_of_a_swap_leaves_nothing_in_use(
    tmp_path: Path, expected: np.ndarray
) -> None:
    with serve(tmp_path) as server:
        assert server.process is not None
        until(lambda: bool(list(tmp_path.glob("*/*"))))
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(30)
    left = {path.name for path in tmp_path.glob("appliance-*")}
    assert left
    with serve(tmp_path) as server:
        for name in (*NAMES, *NAMES):
            np.testing.assert_array_equal(vectors(server, name), expected)
        assert not left & {path.name for path in tmp_path.glob("appliance-*")}
