# SPDX-License-Identifier: Apache-2.0
"""Measure what a batch costs the live requests beside it.

    python scripts/bench_batches.py

Serves the embedded model, and has clients ask for a short text or a short list of texts, with a
pause after each answer. That is measured in windows, in turns without a batch and beside one of
OpenAI's Batch API, and printed as a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from bench_lib.client import Endpoint
from bench_lib.load import make_load, request_bodies
from bench_lib.machine import machine_line
from bench_lib.options import weights
from bench_lib.own_server import OwnServer, serve
from bench_lib.servers import MODEL

JSON = {"content-type": "application/json"}
MOST_RATIO = 1.5
PERCENTILES = (50, 95, 99)
POLL_SECONDS = 0.05
WARM_UP_SECONDS = 3.0


@dataclass
class Found:
    """What the windows have brought.

    Attributes:
        alone: Milliseconds of each live request without a batch.
        beside: The same beside one.
        rates: Inputs a second of the batch, in each window.
    """

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)


class Live:
    """Clients in closed loops.

    Args:
        server: Who is asked.
        options: The command line.
    """

    def __init__(self, server: OwnServer, options: argparse.Namespace) -> None:
        address = urlsplit(server.url)
        assert address.hostname is not None
        assert address.port is not None
        self._endpoint = Endpoint(address.hostname, address.port, "/v1/embeddings", JSON)
        self._clients = options.clients
        self._pause = options.think_ms / 1000
        texts = make_load(weights(), 256, options.seed + 1, "short").texts
        singles = request_bodies(texts, 1, MODEL)
        lists = request_bodies(texts, options.texts, MODEL)
        self._bodies = [body for pair in zip(singles, lists, strict=False) for body in pair]

    def measure(self, seconds: float) -> list[float]:
        """Milliseconds of each request within a window."""
        found: list[list[float]] = [[] for _ in range(self._clients)]
        deadline = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._ask, args=(number, deadline, found[number]))
            for number in range(self._clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [milliseconds for some in found for milliseconds in some]

    def _ask(self, number: int, deadline: float, found: list[float]) -> None:
        bodies = cycle(self._bodies[number:] + self._bodies[:number])
        # Not in step with the others.
        time.sleep(self._pause * number / self._clients)
        with closing(_answers(self._endpoint, bodies)) as answers:
            while time.monotonic() < deadline:
                found.append(next(answers))
                time.sleep(self._pause)


def _answers(endpoint: Endpoint, bodies: Iterator[bytes]) -> Generator[float]:
    """Milliseconds of one request after the other, over one connection."""
    with httpx.Client(trust_env=False, timeout=300) as client:
        for body in bodies:
            start = time.perf_counter()
            client.post(endpoint.url, content=body, headers=endpoint.headers).raise_for_status()
            yield (time.perf_counter() - start) * 1000


class Job:
    """A batch that is running.

    Args:
        server: Who runs it.
        content: Its requests.
    """

    def __init__(self, server: OwnServer, content: bytes) -> None:
        self._client = httpx.Client(base_url=server.url, trust_env=False, timeout=60)
        answer = self._client.post(
            "/v1/files", files={"file": ("input.jsonl", content)}, data={"purpose": "batch"}
        )
        wanted = {
            "input_file_id": answer.raise_for_status().json()["id"],
            "endpoint": "/v1/embeddings",
            "completion_window": "24h",
        }
        self._id = self._client.post("/v1/batches", json=wanted).raise_for_status().json()["id"]
        self._wait("in_progress", "finalizing", "completed")
        self._started = time.monotonic()

    def end(self, inputs_per_request: int) -> float:
        """Cancel it, unless it has ended; inputs a second until then."""
        if self._state()["status"] != "in_progress":
            raise SystemExit("the batch has ended before its window: ask for more --inputs")
        self._client.post(f"/v1/batches/{self._id}/cancel")
        seconds = time.monotonic() - self._started
        batch = self._wait("cancelled", "completed")
        self._client.close()
        return float(batch["request_counts"]["completed"] * inputs_per_request / seconds)

    def _state(self) -> dict[str, Any]:
        found: dict[str, Any] = (
            self._client.get(f"/v1/batches/{self._id}").raise_for_status().json()
        )
        return found

    def _wait(self, *statuses: str) -> dict[str, Any]:
        while (batch := self._state())["status"] not in statuses:
            if batch["status"] in ("failed", "expired"):
                raise SystemExit(f"the batch has ended: {batch}")
            time.sleep(POLL_SECONDS)
        return batch


def batch_content(options: argparse.Namespace) -> bytes:
    """A file of requests."""
    texts = make_load(weights(), options.inputs, options.seed, "mixed").texts
    rows = (
        {
            "custom_id": str(number),
            "method": "POST",
            "url": "/v1/embeddings",
            "body": json.loads(body),
        }
        for number, body in enumerate(request_bodies(texts, options.inputs_per_request, MODEL))
    )
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def run(options: argparse.Namespace) -> Found:
    """Measure in turns."""
    found = Found()
    content = batch_content(options)
    models = [{"model": f"embedded:{MODEL}", "dtype": options.dtype}]
    with tempfile.TemporaryDirectory() as folder, serve(models, data_dir=folder) as server:
        live = Live(server, options)
        live.measure(WARM_UP_SECONDS)
        for _ in range(options.rounds):
            found.alone += live.measure(options.seconds)
            job = Job(server, content)
            found.beside += live.measure(options.seconds)
            found.rates.append(job.end(options.inputs_per_request))
    return found


def report(found: Found, options: argparse.Namespace) -> float:
    """Print the table; the ratio of the 99th percentiles."""
    alone, beside = (np.percentile(some, PERCENTILES) for some in (found.alone, found.beside))
    print("| live requests | " + " | ".join(f"p{p}, ms" for p in PERCENTILES) + " | requests |")
    print("|---|" + "---:|" * (len(PERCENTILES) + 1))
    for name, figures, count in (
        ("alone", alone, len(found.alone)),
        ("beside a batch", beside, len(found.beside)),
    ):
        print(f"| {name} |", " | ".join(f"{figure:.1f}" for figure in figures), f"| {count} |")
    print("| ratio |", " | ".join(f"{ratio:.2f}" for ratio in beside / alone), "| |")
    print(
        f"\n- the batch: {np.mean(found.rates):.0f} inputs/s meanwhile; {options.inputs} inputs,"
        f" {options.inputs_per_request} a request\n"
        f"- {MODEL}, {options.dtype}; {options.clients} clients, 1 and {options.texts} texts a"
        f" request by turns, {options.think_ms} ms between; {options.rounds} rounds of"
        f" {options.seconds:g} s\n- {machine_line({})}"
    )
    return float(beside[-1] / alone[-1])


def main() -> int:
    """Run it; 1 if a batch costs more than it may."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="a window (%(default)s)")
    parser.add_argument("--clients", type=int, default=4, help="(%(default)s)")
    parser.add_argument("--texts", type=int, default=4, help="of a list (%(default)s)")
    parser.add_argument("--think-ms", type=int, default=50, help="(%(default)s)")
    parser.add_argument("--inputs", type=int, default=20_000, help="of the batch (%(default)s)")
    parser.add_argument("--inputs-per-request", type=int, default=1, help="(%(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    return 1 if report(run(options), options) > MOST_RATIO else 0


if __name__ == "__main__":
    sys.exit(main())
