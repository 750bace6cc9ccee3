# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server of the tests' own, where its programs are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest


class PostgreSQL:
    """A cluster in a folder of its own, stopped at first.

    Attributes:
        url: Of its database.
    """

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="appliance-postgresql-"))
        self._as_user: dict[str, Any] = {"cwd": self.folder}
        if os.getuid() == 0:  # which PostgreSQL refuses to run as
            user = next(u for u in map(_user, ("postgres", "nobody")) if u is not None)
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as_user |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"postgresql://tester:planted-password@127.0.0.1:{self._port}/postgres"
        make = [programs / "initdb", "-D", self.folder / "data", "-U", "tester", "--no-sync"]
        make += ["--auth", "trust", "--encoding", "UTF8"]
        subprocess.run(make, check=True, capture_output=True, **self._as_user)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return once it answers."""
        command = [self._programs / "postgres", "-D", self.folder / "data", "-p", str(self._port)]
        command += ["-k", self.folder, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log, stdout=log, **self._as_user)
        for _ in range(300):
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """Stop at once; those who are connected are cut off."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # a "fast" shutdown
            self._process.wait(30)
            self._process = None

    def empty(self) -> None:
        """Drop every table."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)


def make_postgresql() -> PostgreSQL:
    """A cluster, or a skipped test with the reason."""
    found = shutil.which("initdb")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found is None and not installed:
        pytest.skip("PostgreSQL's programs are not installed (Debian's package postgresql)")
    return PostgreSQL(Path(found).resolve().parent if found else installed[-1].parent)


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None
