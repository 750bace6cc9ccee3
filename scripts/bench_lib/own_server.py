# SPDX-License-Identifier: Apache-2.0
"""This repository's server with any settings, for scripts that look at nothing else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["OwnServer", "serve"]

STOP_SECONDS = 60
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class OwnServer:
    """A healthy server."""

    url: str
    pid: int

    @property
    def rss_bytes(self) -> int:
        """RAM that the process takes."""
        return int(psutil.Process(self.pid).memory_info().rss)


@contextmanager
def serve(
    models: Sequence[Mapping[str, Any]],
    *,
    log: Path | None = None,
    may_be_killed: bool = False,
    **settings: Any,
) -> Iterator[OwnServer]:
    """A server of its own, once it is healthy; stopped at the end, which must go well.

    Args:
        models: What to serve, with the settings of each.
        log: File for its log. Unset: none is kept.
        may_be_killed: Whether SIGKILL is an end like any other.
        settings: The instance's further settings.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        log = log or Path(folder) / "log"
        file.write_text(json.dumps({"port": 0, "models": models, **settings}))
        command = [sys.executable, "-m", "appliance", "serve", "--config", str(file)]
        with log.open("w") as stderr:
            process = subprocess.Popen(command, stderr=stderr)
        try:
            yield OwnServer(_wait_until_healthy(process, log), process.pid)
        finally:
            process.terminate()
            code = process.wait(STOP_SECONDS)
            if code and not (may_be_killed and code == -signal.SIGKILL):
                raise SystemExit(f"the server ended with {code}:\n{log.read_text()[-4000:]}")


def _wait_until_healthy(process: subprocess.Popen[bytes], log: Path) -> str:
    """The server's URL, once every model has been loaded."""
    while process.poll() is None:
        _, found, rest = log.read_text().partition("running on ")
        if found and "\n" in rest:
            url = rest.split()[0]
            if httpx.get(f"{url}/health").status_code == httpx.codes.OK:
                return url
        time.sleep(POLL_SECONDS)
    raise SystemExit(f"the server did not start:\n{log.read_text()[-4000:]}")
