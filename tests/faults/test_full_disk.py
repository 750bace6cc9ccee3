# SPDX-License-Identifier: Apache-2.0
"""A disk that is full, and has room again, under the database of tokens."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.api.access import KEY, ask, create, embed
from tests.api.management import assert_error, eventually
from tests.conftest import REAL_MODEL, RunningServer, run_process

FOLDER_BYTES = 2**20
LEAST_BYTES = 2**12
"""Of a file: what no write to the database fits into."""

Switch = Callable[[RunningServer], None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which only root can mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={FOLDER_BYTES}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def serving(folder: Path) -> Iterator[RunningServer]:
    environment = {"APPLIANCE_API_KEYS": KEY, "APPLIANCE_DATA_DIR": str(folder)}
    with run_process(environment=environment) as server:
        yield server


def tokens_of(server: RunningServer) -> dict[str, dict[str, Any]]:
    answer = ask(server, KEY, "GET", "/api/tokens")
    assert answer.status_code == 200, answer.text
    return {token["id"]: token for token in answer.json()["tokens"]}


def fill_and_empty(folder: Path, full: Switch, empty: Switch) -> None:
    """Have a server work on while nothing can be written, and look at what is there afterwards."""
    with serving(folder) as server:
        known, other, unused = create(server), create(server), create(server)
        assert embed(server, known["secret"], model=REAL_MODEL).status_code == 200
        full(server)
        refused = ask(server, KEY, "POST", "/api/tokens", json={"name": "t"})
        assert_error(refused, 503, "cannot be read or written now")
        assert refused.headers["retry-after"] == "1"
        revocation = ask(server, KEY, "DELETE", f"/api/tokens/{other['token']['id']}")
        assert_error(revocation, 503, "cannot be read or written now")
        for made in (known, other, unused):  # the last is looked up on the full disk
            assert embed(server, made["secret"], model=REAL_MODEL).status_code == 200
        assert embed(server, "unknown", model=REAL_MODEL).status_code == 401
        empty(server)
        eventually(lambda: ask(server, KEY, "POST", "/api/tokens", json={"name": "t"}).is_success)
        path = f"/api/tokens/{other['token']['id']}"
        assert ask(server, KEY, "DELETE", path).json()["state"] == "revoked"
        eventually(lambda: tokens_of(server)[known["token"]["id"]]["requests"] == 2)
        before = tokens_of(server)
    with closing(sqlite3.connect(folder / "appliance.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with serving(folder) as server:
        assert tokens_of(server) == before
        assert embed(server, other["secret"], model=REAL_MODEL).status_code == 401


def test_a_full_file_system_costs_no_token(small_disk: Path) -> None:
    filler = small_disk / "filler"

    def fill(_: RunningServer) -> None:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(LEAST_BYTES))
        with pytest.raises(OSError, match="No space"):
            (small_disk / "one more").write_bytes(b"x")

    fill_and_empty(small_disk, fill, lambda _: filler.unlink())


@pytest.mark.slow
def test_files_that_may_not_grow_cost_no_token(tmp_path: Path) -> None:
    def limit(server: RunningServer, most: int) -> None:
        assert server.process is not None
        hard = resource.RLIM_INFINITY
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (most, hard))

    fill_and_empty(
        tmp_path,
        lambda server: limit(server, LEAST_BYTES),
        lambda server: limit(server, resource.RLIM_INFINITY),
    )
