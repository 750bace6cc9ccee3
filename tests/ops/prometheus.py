# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus that reads a real server, by the files in ``ops``."""

from __future__ import annotations

import math
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.ops.files import OPS, program


class Prometheus:
    """One that answers.

    Args:
        url: Where.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str, **parameters: str) -> Any:
        """What it says; an error of a question fails the test."""
        answer = httpx.get(f"{self._url}/api/v1/{path}", params=parameters, timeout=30)
        said = answer.json()
        assert said["status"] == "success", f"{parameters}: {said}"
        return said["data"]

    def query(self, expression: str) -> list[float]:
        """Values of an expression now, those left out that are no number."""
        found = self.get("query", query=expression)["result"]
        values = [float(each["value"][1]) for each in found]
        return [value for value in values if not math.isnan(value)]


@contextmanager
def prometheus(folder: Path, server: str, token: str) -> Iterator[Prometheus]:
    """Run one with the configuration in ``ops``, but for the target and how often it is read.

    Args:
        folder: For its data.
        server: URL of what it reads.
        token: For the file that it reads its token from.
    """
    shutil.copytree(OPS, folder / "ops")
    (folder / "ops" / "embeddings.token").write_text(token, encoding="utf-8")
    file = folder / "ops" / "prometheus.yaml"
    text = file.read_text(encoding="utf-8").replace("127.0.0.1:8080", urlsplit(server).netloc)
    often = text.replace("_interval: 15s", "_interval: 1s").replace("timeout: 10s", "timeout: 1s")
    file.write_text(often, encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [program("prometheus"), "--config.file", file, "--web.listen-address", address]
    command += ["--storage.tsdb.path", folder / "data"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)
    try:
        _wait(f"http://{address}/-/ready", folder / "log")
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(30)


def _wait(url: str, log: Path) -> None:
    for _ in range(300):
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text(encoding="utf-8"))
