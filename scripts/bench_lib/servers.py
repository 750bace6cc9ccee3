# SPDX-License-Identifier: Apache-2.0
"""The servers that are compared, and how each is started."""

from __future__ import annotations

import socket
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from bench_lib.client import Endpoint
from bench_lib.processes import Process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["MODEL", "OWN", "RunningServer", "ServerCommand", "external", "infinity", "own", "start"]

MODEL = "all-MiniLM-L6-v2"
OWN = "appliance"
PORT = "{port}"
"""Stands for the port in a command."""

START_SECONDS = 300.0
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class ServerCommand:
    """How to start one server, and how to speak to it."""

    name: str
    command: Sequence[str]
    folder: Path
    embeddings_path: str = "/v1/embeddings"
    counts_tokens: bool = True
    """Whether `usage` must be the tokenizer's own count."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunningServer:
    """A healthy server; `process` is None for one that somebody else started."""

    name: str
    endpoint: Endpoint
    counts_tokens: bool
    process: Process | None
    start_seconds: float | None


def own(repository: Path) -> ServerCommand:
    """This repository's server, from the interpreter that runs the bench."""
    command = [sys.executable, "-m", "appliance", "serve", "--port", PORT]
    return ServerCommand(OWN, [*command, "--models", f"embedded:{MODEL}"], repository)


def infinity(python: Path, model_folder: Path, state: Path, *flags: str) -> ServerCommand:
    """Infinity with its own defaults: BetterTransformer on, batches of 32, a warm-up at start."""
    return ServerCommand(
        name=" ".join(("infinity", *flags)),
        command=[
            *(str(python.with_name("infinity_emb")), "v2", "--model-id", str(model_folder)),
            *("--served-model-name", MODEL, "--engine", "torch", "--device", "cpu"),
            *("--host", "127.0.0.1", "--port", PORT, *flags),
        ],
        folder=state,
        embeddings_path="/embeddings",
        # It counts characters; with --lengths-via-tokenize it tokenises all twice and leaves out
        # the special tokens.
        counts_tokens=False,
    )


def start(server: ServerCommand, state: Path, headers: Mapping[str, str]) -> RunningServer:
    """Start the server and wait until it says that it is healthy."""
    port = _free_port()
    command = [part.replace(PORT, str(port)) for part in server.command]
    log = state / "logs" / f"{server.name.replace(' ', '')}.log"
    process = Process(command, log, server.folder, server.environment)
    try:
        seconds = _wait_healthy(f"http://127.0.0.1:{port}", process)
    except BaseException:
        process.stop()
        raise
    endpoint = Endpoint("127.0.0.1", port, server.embeddings_path, headers)
    return RunningServer(server.name, endpoint, server.counts_tokens, process, seconds)


def external(base_url: str, headers: Mapping[str, str]) -> RunningServer:
    """Our server, already running at `base_url`, with or without its /v1."""
    parts = urlsplit(base_url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{base_url}: a base URL looks like http://127.0.0.1:8000")
    path = parts.path.rstrip("/").removesuffix("/v1") + "/v1/embeddings"
    endpoint = Endpoint(parts.hostname, parts.port or 80, path, headers)
    return RunningServer(OWN, endpoint, counts_tokens=True, process=None, start_seconds=None)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _wait_healthy(url: str, process: Process) -> float:
    with httpx.Client(base_url=url, timeout=5.0, trust_env=False) as client:
        while True:
            process.require_alive()
            try:
                if client.get("/health").status_code == httpx.codes.OK:
                    return time.perf_counter() - process.started
            except httpx.TransportError:
                pass
            if time.perf_counter() - process.started > START_SECONDS:
                raise TimeoutError(
                    f"no 200 from {url}/health in {START_SECONDS:.0f} s: {process.log}"
                )
            time.sleep(POLL_SECONDS)
