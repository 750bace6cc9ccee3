# SPDX-License-Identifier: Apache-2.0
"""Ask the server for more than it can do, and for long.

    python scripts/soak_requests.py overload
    python scripts/soak_requests.py endurance

`overload` offers ten times as many requests as the server was just seen to finish, whether or not
it answers, for two minutes: what is accepted must go on at the pace of a server that is merely
busy, nothing may fail but by 429, and the memory must stay. `endurance` sends 100 000 requests of
many kinds, bad ones and clients that leave among them, and looks at the memory that the process
takes. Both serve the embedded model in a process of their own and print Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import cycle, repeat
from typing import Any

import aiohttp
import numpy as np
from bench_lib.lean_client import LeanClient, lean_client
from bench_lib.load import make_load, request_bodies
from bench_lib.machine import machine_line
from bench_lib.options import weights
from bench_lib.own_server import OwnServer, serve
from bench_lib.servers import MODEL

SOURCE = f"embedded:{MODEL}"
JSON = {"content-type": "application/json"}
OK, TOO_MANY = 200, 429
MIB = 2**20
TICK_SECONDS = 0.01
SETTLE_SECONDS = 3.0


@dataclass
class Tally:
    """What the clients saw.

    Attributes:
        statuses: Answers by status.
        tokens: Of answers with vectors that came while the clock ran.
        cpu_seconds: That the clients took of the cores.
        seconds: From the request to the whole answer, of each of these.
        queue_seconds: Of it in the queue, as the server tells.
        faults: What should not have been.
        rss: Bytes of RAM that the server took, now and then.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    tokens: int = 0
    cpu_seconds: float = 0.0
    seconds: list[float] = field(default_factory=list)
    queue_seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)


async def ask(http: LeanClient, body: bytes, tally: Tally, until: float) -> None:
    """One request for vectors."""
    started = time.monotonic()
    try:
        answer = await http.post(body)
    except OSError as error:
        tally.faults.append(repr(error))
        return
    ended = time.monotonic()
    tally.statuses[answer.status] += 1
    if answer.status == OK:
        timings = answer.headers["server-timing"].split(", ")
        queue = next(float(part.split("=")[1]) for part in timings if part.startswith("queue"))
        tally.seconds.append(ended - started)
        tally.queue_seconds.append(queue / 1000)
        if ended <= until:
            tally.tokens += json.loads(answer.content)["usage"]["prompt_tokens"]
    elif answer.status != TOO_MANY:
        tally.faults.append(f"{answer.status}: {answer.content[:200]!r}")
    elif "retry-after" not in answer.headers:
        tally.faults.append("429 without retry-after")


def vectors_of(server: OwnServer) -> AbstractAsyncContextManager[LeanClient]:
    return lean_client(server.url, "/v1/embeddings", JSON)


def session(server: OwnServer) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        server.url,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=300),
    )


async def best(server: OwnServer, bodies: Sequence[bytes], clients: int, seconds: float) -> Tally:
    """As many clients as keep the server busy, one request after the other."""
    tally = Tally()
    waiting = cycle(bodies)
    until = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < until:
            await ask(http, next(waiting), tally, until)

    cpu = time.process_time()
    async with vectors_of(server) as http:
        await asyncio.gather(*(client() for _ in range(clients)))
    tally.cpu_seconds = time.process_time() - cpu
    return tally


async def overload(
    server: OwnServer, bodies: Sequence[bytes], rate: float, seconds: float
) -> Tally:
    """Requests at a steady rate, whatever becomes of those before.

    Args:
        server: The server.
        bodies: What to ask for, in turns.
        rate: Requests a second.
        seconds: For so long.
    """
    tally = Tally()
    waiting = cycle(bodies)
    started = time.monotonic()
    sent, cpu = 0, time.process_time()
    async with vectors_of(server) as http, asyncio.TaskGroup() as group:
        while (now := time.monotonic() - started) < seconds:
            for _ in repeat(None, int(now * rate) - sent):
                group.create_task(ask(http, next(waiting), tally, started + seconds))
                sent += 1
            if now > len(tally.rss):
                tally.rss.append(server.rss_bytes)
            await asyncio.sleep(TICK_SECONDS)
        tally.cpu_seconds = time.process_time() - cpu
    return tally


def run_overload(options: argparse.Namespace) -> int:
    """Measure, and say what came of it."""
    texts = make_load(weights(), 512, seed=0).texts
    bodies = list(request_bodies(texts, options.texts, MODEL))
    with serve([{"model": SOURCE, "max_queue_seconds": options.wait}]) as server:
        asyncio.run(best(server, bodies, options.clients, SETTLE_SECONDS))
        before = asyncio.run(best(server, bodies, options.clients, options.best_seconds))
        rate = options.times * len(before.seconds) / options.best_seconds
        rss = server.rss_bytes
        tally = asyncio.run(overload(server, bodies, rate, options.seconds))
        after = asyncio.run(best(server, bodies, options.clients, options.best_seconds))
    paces = [each.tokens / options.best_seconds for each in (before, after)]
    cores = [each.cpu_seconds / options.best_seconds for each in (before, after)]
    pace = tally.tokens / options.seconds
    cores.append(tally.cpu_seconds / options.seconds)
    times, queue = np.array(tally.seconds), np.array(tally.queue_seconds)
    faults = before.faults + tally.faults + after.faults
    print(
        f"{machine_line({})}; {options.texts} texts a request, {options.times} x"
        f" {rate / options.times:.1f} requests/s for {options.seconds:.0f} s, max_queue_seconds"
        f" {options.wait:g}.\n\n"
        f"- statuses: {dict(sorted(tally.statuses.items()))}; {len(faults)} faults\n"
        f"- accepted: {pace:.0f} tokens/s; {options.clients} clients in turns {paces[0]:.0f} before"
        f" and {paces[1]:.0f} after: {pace / max(paces):.2f} of the better\n"
        f"- time of an accepted request: median {np.median(times):.2f} s, p99"
        f" {np.percentile(times, 99):.2f} s, longest {times.max():.2f} s; of it in the queue p99"
        f" {np.percentile(queue, 99):.2f} s\n"
        f"- cores taken by the clients: {cores[2]:.3f}; {max(cores[:2]):.3f} by those in turns\n"
        f"- RSS: {rss / MIB:.0f} MiB before, at most {max(tally.rss) / MIB:.0f}, at the end"
        f" {tally.rss[-1] / MIB:.0f}"
    )
    print("\n".join(f"- {fault}" for fault in faults[:20]))
    return 1 if faults else 0


@dataclass(frozen=True)
class Call:
    """One of the things that clients do.

    Attributes:
        body: What is sent to the embeddings route; ``None``: a page is read instead.
        path: Route.
        status: What it must be answered with; ``None``: nobody waits for the answer.
    """

    body: bytes | None
    path: str = "/v1/embeddings"
    status: int | None = OK


def wanted(chance: random.Random, texts: Sequence[str]) -> bytes:
    """A request for vectors, in one of their forms."""
    body: dict[str, Any] = {"model": MODEL, "input": list(texts)}
    if chance.random() < 0.7:
        body["encoding_format"] = "base64"
    if chance.random() < 0.2:
        body["dimensions"] = chance.choice((64, 128, 256))
    if chance.random() < 0.1:
        body["output_dtype"] = chance.choice(("binary", "ubinary"))
    if chance.random() < 0.1:
        body["priority"] = chance.choice(("low", "high"))
    return json.dumps(body).encode()


def calls(seed: int) -> Iterator[Call]:
    """What clients do, at random: most ask for vectors in one form or another."""
    chance = random.Random(seed)
    short = make_load(weights(), 512, seed, "short").texts
    mixed = make_load(weights(), 512, seed).texts
    bad: list[bytes] = [
        b'{"model": "nobody", "input": "x"}',
        b'{"input": []}',
        b'{"model": ',
        json.dumps({"model": MODEL, "input": ["x"], "dimensions": 5000}).encode(),
        json.dumps({"model": MODEL, "input": [mixed[0] * 40]}).encode(),
    ]
    pages = ("/v1/models", "/api/status", "/health")

    while True:
        kind = chance.random()
        if kind < 0.05:
            body = chance.choice(bad)
            yield Call(body, status=404 if b"nobody" in body else 400)
        elif kind < 0.07:
            yield Call(wanted(chance, mixed[:16]), status=None)
        elif kind < 0.08:
            yield Call(None, chance.choice(pages))
        elif kind < 0.12:
            yield Call(wanted(chance, chance.sample(mixed, 2)))
        else:
            yield Call(wanted(chance, chance.sample(short, chance.randint(1, 3))))


async def do(http: aiohttp.ClientSession, call: Call, tally: Tally, leave: float) -> None:
    """One call.

    Args:
        http: Connections to the server.
        call: What to do.
        tally: Where to note what came of it.
        leave: Seconds after which a client that does not wait for its answer goes.
    """
    method = "GET" if call.body is None else "POST"
    try:
        async with asyncio.timeout(leave if call.status is None else None):
            async with http.request(method, call.path, data=call.body, headers=JSON) as answer:
                content = await answer.read()
    except TimeoutError:
        tally.statuses[0] += 1
        return
    tally.statuses[answer.status] += 1
    if call.status is not None and answer.status != call.status:
        tally.faults.append(f"{answer.status} for {call.body!r}: {content[:200]!r}")


async def endure(
    server: OwnServer, count: int, clients: int, on_part: Callable[[int], None]
) -> Tally:
    """So many calls; ``on_part`` is told of each tenth."""
    tally = Tally()
    waiting = iter(zip(range(count), calls(0), strict=False))
    chance = random.Random(1)

    async def client() -> None:
        for number, call in waiting:
            if number and number % (count // 10) == 0:
                tally.rss.append(server.rss_bytes)
                on_part(number)
            await do(http, call, tally, leave=chance.uniform(0.001, 0.05))

    async with session(server) as http:
        await asyncio.gather(*(client() for _ in range(clients)))
    tally.rss.append(server.rss_bytes)
    return tally


def run_endurance(options: argparse.Namespace) -> int:
    """Measure, and say what came of it."""
    with serve([{"model": SOURCE}]) as server:
        start, started = server.rss_bytes, time.monotonic()
        tally = asyncio.run(
            endure(
                server,
                options.requests,
                options.clients,
                lambda number: print(f"{number} requests", file=sys.stderr),
            )
        )
        seconds = time.monotonic() - started
    growth = tally.rss[-1] / tally.rss[0] - 1
    table = ", ".join(f"{rss / MIB:.0f}" for rss in tally.rss)
    print(
        f"{machine_line({})}; {options.requests} requests by {options.clients} clients in"
        f" {seconds:.0f} s.\n\n"
        f"- statuses (0: the client left): {dict(sorted(tally.statuses.items()))};"
        f" {len(tally.faults)} faults\n"
        f"- RSS in MiB: {start / MIB:.0f} before, then at each tenth {table}: {growth:+.1%} after"
        " the first tenth"
    )
    print("\n".join(f"- {fault}" for fault in tally.faults[:20]))
    return 1 if tally.faults else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("overload", help="more requests than can be served")
    part.add_argument("--times", type=float, default=10, help="the best rate (%(default)s)")
    part.add_argument("--seconds", type=float, default=120, help="(%(default)s)")
    part.add_argument("--best-seconds", type=float, default=20, help="(%(default)s)")
    part.add_argument("--wait", type=float, default=10, help="max_queue_seconds (%(default)s)")
    part.add_argument("--texts", type=int, default=8, help="a request (%(default)s)")
    part.add_argument("--clients", type=int, default=16, help="for the best (%(default)s)")
    part.set_defaults(run=run_overload)
    part = parts.add_parser("endurance", help="many requests of many kinds")
    part.add_argument("--requests", type=int, default=100_000, help="(%(default)s)")
    part.add_argument("--clients", type=int, default=16, help="(%(default)s)")
    part.set_defaults(run=run_endurance)
    options = parser.parse_args()
    code: int = options.run(options)
    return code


if __name__ == "__main__":
    sys.exit(main())
