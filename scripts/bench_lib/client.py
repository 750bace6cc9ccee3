# SPDX-License-Identifier: Apache-2.0
"""The client: closed loops of requests over HTTP, answers read only after the clock has stopped.

It runs in the bench's own process, which does nothing else meanwhile; the report says what it cost.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Answers", "Endpoint", "lone_latencies", "post_all"]

TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True)
class Endpoint:
    """Where a server takes embedding requests."""

    host: str
    port: int
    path: str
    headers: Mapping[str, str]

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}{self.path}"


@dataclass(frozen=True)
class Answers:
    """Everything that one pass over the load brought back."""

    seconds: float
    client_cpu_seconds: float
    vectors: NDArray[np.float32]
    usage_tokens: int


def post_all(endpoint: Endpoint, bodies: Sequence[bytes], clients: int) -> Answers:
    """Send every body once, `clients` of them at any time."""
    return asyncio.run(_post_all(endpoint, bodies, clients))


async def _post_all(endpoint: Endpoint, bodies: Sequence[bytes], clients: int) -> Answers:
    contents: list[bytes] = [b""] * len(bodies)
    waiting = iter(enumerate(bodies))
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)

    async def loop() -> None:
        for index, body in waiting:
            response = await client.post(endpoint.url, content=body, headers=endpoint.headers)
            if response.status_code != httpx.codes.OK:
                raise RuntimeError(f"{endpoint.url}: {response.status_code} {response.text[:300]}")
            contents[index] = response.content

    # trust_env: a proxy from the environment would stand between us and 127.0.0.1.
    async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, limits=limits, trust_env=False) as client:
        start, cpu_start = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(loop())
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    answers: list[dict[str, Any]] = [json.loads(content) for content in contents]
    return Answers(
        seconds=seconds,
        client_cpu_seconds=cpu_seconds,
        vectors=np.stack([row for answer in answers for row in _rows(answer)]),
        usage_tokens=sum(answer["usage"]["prompt_tokens"] for answer in answers),
    )


def _rows(answer: dict[str, Any]) -> list[NDArray[np.float32]]:
    entries = sorted(answer["data"], key=lambda entry: int(entry["index"]))
    return [np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in entries]


def lone_latencies(endpoint: Endpoint, body: bytes, times: int) -> list[float]:
    """Milliseconds of each of `times` requests in a row, over one connection.

    With `http.client`, which adds about 0.2 ms to a request; httpx's AsyncClient adds about 0.5 ms,
    much of what a short text takes.
    """
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, TIMEOUT_SECONDS)
    milliseconds = []
    try:
        for _ in range(times):
            start = time.perf_counter()
            connection.request("POST", endpoint.path, body, dict(endpoint.headers))
            response = connection.getresponse()
            content = response.read()
            milliseconds.append((time.perf_counter() - start) * 1000)
            if response.status != http.client.OK:
                raise RuntimeError(f"{endpoint.url}: {response.status} {content[:300]!r}")
    finally:
        connection.close()
    return milliseconds
