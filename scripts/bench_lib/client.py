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
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "Answers",
    "Endpoint",
    "LoneAnswer",
    "lone_answers",
    "lone_latencies",
    "parse_server_timing",
    "post_all",
]

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
    milliseconds: list[float]
    """Of each request, as its client saw it."""
    server_timings: list[dict[str, float]]
    """Milliseconds of the parts that the server names, of each request."""


def post_all(endpoint: Endpoint, bodies: Sequence[bytes], clients: int) -> Answers:
    """Send every body once, `clients` of them at any time."""
    return asyncio.run(_post_all(endpoint, bodies, clients))


async def _post_all(endpoint: Endpoint, bodies: Sequence[bytes], clients: int) -> Answers:
    contents: list[bytes] = [b""] * len(bodies)
    milliseconds = [0.0] * len(bodies)
    timings: list[str | None] = [None] * len(bodies)
    waiting = iter(enumerate(bodies))
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)

    async def loop() -> None:
        for index, body in waiting:
            sent = time.perf_counter()
            response = await client.post(endpoint.url, content=body, headers=endpoint.headers)
            milliseconds[index] = (time.perf_counter() - sent) * 1000
            if response.status_code != httpx.codes.OK:
                raise RuntimeError(f"{endpoint.url}: {response.status_code} {response.text[:300]}")
            contents[index] = response.content
            timings[index] = response.headers.get("server-timing")

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
        milliseconds=milliseconds,
        server_timings=[parse_server_timing(header) for header in timings],
    )


def _rows(answer: dict[str, Any]) -> list[NDArray[np.float32]]:
    entries = sorted(answer["data"], key=lambda entry: int(entry["index"]))
    return [np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in entries]


@dataclass(frozen=True)
class LoneAnswer:
    """One of the answers to requests in a row."""

    milliseconds: float
    server_timing: Mapping[str, float]
    """Milliseconds of the parts that the server names; empty if it names none."""


def lone_answers(endpoint: Endpoint, body: bytes) -> Generator[LoneAnswer]:
    """Ask the same again and again, over one connection, for as long as answers are taken.

    With `http.client`, which adds about 0.2 ms to a request; httpx's AsyncClient adds about 0.5 ms,
    much of what a short text takes.
    """
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, TIMEOUT_SECONDS)
    headers = dict(endpoint.headers)
    try:
        while True:
            start = time.perf_counter()
            connection.request("POST", endpoint.path, body, headers)
            response = connection.getresponse()
            content = response.read()
            milliseconds = (time.perf_counter() - start) * 1000
            if response.status != http.client.OK:
                raise RuntimeError(f"{endpoint.url}: {response.status} {content[:300]!r}")
            yield LoneAnswer(milliseconds, parse_server_timing(response.getheader("server-timing")))
    finally:
        connection.close()


def lone_latencies(endpoint: Endpoint, body: bytes, times: int) -> list[float]:
    """Milliseconds of each of `times` requests in a row."""
    with closing(lone_answers(endpoint, body)) as answers:
        return [answer.milliseconds for answer in islice(answers, times)]


def parse_server_timing(header: str | None) -> dict[str, float]:
    """Durations by name, as in `forward;dur=1.5, queue;dur=0.1`."""
    metrics = (metric.split(";dur=") for metric in (header or "").split(","))
    return {metric[0].strip(): float(metric[1]) for metric in metrics if len(metric) == 2}
