# SPDX-License-Identifier: Apache-2.0
"""The servers that are compared, and how each is started."""

from __future__ import annotations

import json
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from bench_lib.client import Endpoint, lone_latencies
from bench_lib.llama import LLAMA
from bench_lib.load import request_bodies
from bench_lib.processes import SCRIPTS, Process
from bench_lib.workers import FIRST_TEXT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench_lib.llama import Llama
    from bench_lib.onnx_files import OnnxFiles

__all__ = [
    "INFINITY",
    "MODEL",
    "OWN",
    "RunningServer",
    "ServerCommand",
    "external",
    "infinity",
    "infinity_onnx",
    "llama",
    "own",
    "start",
]

MODEL = "all-MiniLM-L6-v2"
OWN = "appliance"
INFINITY = "infinity"
PORT = "{port}"
"""Stands for the port in a command."""

START_SECONDS = 300.0
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class ServerCommand:
    """How to start one server, and how to speak to it."""

    name: str
    dtype: str
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
    dtype: str
    endpoint: Endpoint
    counts_tokens: bool
    process: Process | None
    start_seconds: float | None


def own(repository: Path, dtype: str) -> ServerCommand:
    """This repository's server, from the interpreter that runs the bench."""
    model = json.dumps({"model": f"embedded:{MODEL}", "dtype": dtype})
    command = [sys.executable, "-m", "appliance", "serve", "--port", PORT, "--models", model]
    return ServerCommand(f"{OWN}, {dtype}", dtype, command, repository)


def infinity(python: Path, model_folder: Path, state: Path, *flags: str) -> ServerCommand:
    """Infinity's torch engine with its own defaults: BetterTransformer, batches of 32."""
    command = [str(python.with_name("infinity_emb")), *_infinity_flags(model_folder, "torch")]
    name = " ".join((INFINITY, *flags))
    return _infinity(name, [*command, *flags], state)


def infinity_onnx(python: Path, files: OnnxFiles) -> ServerCommand:
    """Infinity's ONNX engine, which fuses the model's graph at its first start."""
    # This engine reads no pooling from the model's files: unset, it takes the first token's vector.
    flags = [*_infinity_flags(Path(), "optimum"), "--pooling-method", "mean"]
    return _infinity(
        f"{INFINITY}, ONNX engine",
        [str(python), "-m", "bench_lib.infinity_onnx", *flags],
        # A model folder of another name than "." it takes for one on the hub when it looks for
        # the file; what it fuses goes into the hub's cache.
        files.model_folder,
        {"PYTHONPATH": str(SCRIPTS), "HF_HOME": str(files.folder / "hub")},
    )


def _infinity_flags(model_folder: Path, engine: str) -> list[str]:
    return [
        *("v2", "--model-id", str(model_folder), "--served-model-name", MODEL),
        *("--engine", engine, "--device", "cpu", "--host", "127.0.0.1", "--port", PORT),
    ]


def _infinity(
    name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> ServerCommand:
    return ServerCommand(
        name,
        "float32",
        command,
        folder,
        embeddings_path="/embeddings",
        # It counts characters; with --lengths-via-tokenize it tokenises all twice and leaves out
        # the special tokens.
        counts_tokens=False,
        environment=environment or {},
    )


def llama(files: Llama, dtype: str) -> ServerCommand:
    """llama.cpp's server with its own defaults: four slots, batches of 512 tokens."""
    return ServerCommand(
        f"{LLAMA} server, {dtype}",
        dtype,
        [
            *(str(files.server), "--model", str(files.model(dtype)), "--alias", MODEL),
            *("--embedding", "--offline", "--host", "127.0.0.1", "--port", PORT),
        ],
        files.folder,
    )


def start(server: ServerCommand, state: Path, headers: Mapping[str, str]) -> RunningServer:
    """Start the server and wait for its first vector."""
    port = _free_port()
    command = [part.replace(PORT, str(port)) for part in server.command]
    log = state / "logs" / f"{server.name.replace(' ', '')}.log"
    process = Process(command, log, server.folder, server.environment)
    endpoint = Endpoint("127.0.0.1", port, server.embeddings_path, headers)
    try:
        _wait_healthy(f"http://127.0.0.1:{port}", process)
        (body,) = request_bodies([FIRST_TEXT], 1, MODEL)
        lone_latencies(endpoint, body, 1)
    except BaseException:
        process.stop()
        raise
    seconds = time.perf_counter() - process.started
    return RunningServer(
        server.name, server.dtype, endpoint, server.counts_tokens, process, seconds
    )


def external(base_url: str, headers: Mapping[str, str]) -> RunningServer:
    """Our server in float32, already running at `base_url`, with or without its /v1."""
    parts = urlsplit(base_url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{base_url}: a base URL looks like http://127.0.0.1:8000")
    path = parts.path.rstrip("/").removesuffix("/v1") + "/v1/embeddings"
    endpoint = Endpoint(parts.hostname, parts.port or 80, path, headers)
    return RunningServer(
        OWN, "float32", endpoint, counts_tokens=True, process=None, start_seconds=None
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _wait_healthy(url: str, process: Process) -> None:
    with httpx.Client(base_url=url, timeout=5.0, trust_env=False) as client:
        while True:
            process.require_alive()
            try:
                if client.get("/health").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            if time.perf_counter() - process.started > START_SECONDS:
                raise TimeoutError(
                    f"no 200 from {url}/health in {START_SECONDS:.0f} s: {process.log}"
                )
            time.sleep(POLL_SECONDS)
