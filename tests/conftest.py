# SPDX-License-Identifier: Apache-2.0
"""Servers to test against: real ones, on real ports."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import httpx
import hypothesis
import pytest
import uvicorn
from httpx._transports import default

from appliance.app import create_app
from appliance.bounded_http import BoundedHttp
from appliance.engine.service import Engine, Loader
from appliance.settings import ModelSettings, Settings
from tests.fakes import load_fake
from tests.processes import ForkedProcess, Process

REAL_MODEL = "all-MiniLM-L6-v2"

# Each httpx.get makes a client, which reads all certificates that there are: half of the time that
# tests of routes would take.
default.create_ssl_context = cache(httpx.create_ssl_context)

# A change is judged by the same examples as the one before it. HYPOTHESIS_PROFILE=explore draws
# new ones, and more of them.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", max_examples=1000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take long, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="takes long; --slow runs it"))


@dataclass(frozen=True)
class RunningServer:
    """A server that answers."""

    url: str
    log: list[str]
    engine: Engine | None = None
    """The engine, of a server in this process."""
    process: Process | None = None

    def embed(self, **body: object) -> httpx.Response:
        """Post to ``/v1/embeddings``."""
        return httpx.post(f"{self.url}/v1/embeddings", json=body, timeout=60)


@contextmanager
def run_process(
    *flags: str,
    environment: dict[str, str] | None = None,
    code: str = "",
    fresh: bool = False,
    trust: ssl.SSLContext | None = None,
) -> Iterator[RunningServer]:
    """Serve from a process of its own until the block ends.

    Args:
        flags: Of ``appliance serve``, or what the code finds in ``sys.argv``.
        environment: Variables beside those of this process.
        code: What to run in place of ``appliance serve``.
        fresh: Start the interpreter, too, as users do. It takes seconds longer than a fork, whose
            memory is its parent's in part.
        trust: What certificates to trust, of a server that speaks HTTPS.
    """
    process = _start(flags, {**os.environ, **(environment or {})}, code, fresh=fresh)
    log: list[str] = []
    reader = threading.Thread(target=lambda: log.extend(process.stderr or ()), daemon=True)
    try:
        url = _read_url(process, log)
        reader.start()
        wait_until_healthy(url, trust)
        yield RunningServer(url, log, process=process)
    finally:
        process.terminate()
        process.wait(30)
        if reader.ident is not None:
            reader.join(5)
        assert process.stderr is not None
        process.stderr.close()


def _start(flags: Sequence[str], variables: dict[str, str], code: str, *, fresh: bool) -> Process:
    if not code:
        flags = ("--port", "0", *flags)
    if not fresh:
        return ForkedProcess(flags, variables, code)
    command = [sys.executable, *(["-c", code] if code else ["-m", "appliance", "serve"]), *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables)


def _read_url(process: Process, log: list[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        log.append(line)
        if match := re.search(r"running on (https?://\S+)", line):
            return match[1]
    raise AssertionError("the server did not start:\n" + "".join(log))


def wait_until_healthy(url: str, trust: ssl.SSLContext | None = None) -> None:
    """Return once ``/health`` says that every model answers."""
    with httpx.Client(base_url=url, verify=trust or True) as client:
        for _ in range(1200):
            if client.get("/health").status_code == 200:
                return
            time.sleep(0.1)
        raise AssertionError(client.get("/health").text)


@contextmanager
def run_in_thread(
    settings: Settings | None = None, load: Loader = load_fake, *, wait: bool = True
) -> Iterator[RunningServer]:
    """Serve from a thread of this process, with a model that tests control."""
    settings = settings or Settings(models=(ModelSettings(model="fake/model"),))
    engines: list[Engine] = []
    config = uvicorn.Config(
        create_app(settings, load, engines.append),
        host="127.0.0.1",
        port=0,
        log_config=None,
        http=BoundedHttp,
        ws="none",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    try:
        if wait:
            wait_until_healthy(url)
        yield RunningServer(url, [], engines[0])
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The embedded model with its trained weights, in a process of its own."""
    with run_process("--data-dir", str(tmp_path_factory.mktemp("data"))) as server:
        yield server


@pytest.fixture(scope="module")
def fake_server() -> Iterator[RunningServer]:
    """The server with a model that has no weights."""
    models = (
        ModelSettings(model="fake/model", aliases=("text-embedding-3-small",)),
        ModelSettings(model="other", max_client_batch_size=4, max_request_tokens=60),
    )
    with run_in_thread(Settings(models=models)) as server:
        yield server
