# SPDX-License-Identifier: Apache-2.0
"""Show where the time of a request goes.

    python scripts/profile_request.py

Serves the embedded model on a real port from a thread of this process, sends it requests of 32
mixed texts from another process, and prints two Markdown tables: the server's CPU time by what its
threads do, and the time of a request as its client sees it, by the server's own `server-timing`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
from bench_lib.client import Endpoint, post_all
from bench_lib.load import make_load, request_bodies
from bench_lib.machine import machine_line
from bench_lib.options import weights
from bench_lib.servers import MODEL

from appliance.server import ApplianceServer
from appliance.settings import ModelSettings, Settings

if TYPE_CHECKING:
    from bench_lib.client import Answers

CROWDS = (1, 16)
SERVER_THREAD = "event loop"
WORKERS = "device workers: forward pass, pooling, cutting, scaling"
TOKENIZERS = "tokenizer threads"
HTTP = "event loop: HTTP, JSON, scheduling"
OTHERS = "other threads"
GROUPS = {SERVER_THREAD: HTTP, "background": HTTP, "tokenize-": TOKENIZERS, "cpu-worker-": WORKERS}
"""What threads do, by how their names begin."""
PARTS = ("tokenize", "queue", "forward")
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Profile:
    """One run: so many requests from so many clients."""

    cpu_seconds: Mapping[str, float]
    """By group of threads."""
    answers: Answers

    @property
    def whole(self) -> float:
        return sum(self.cpu_seconds.values())

    def cpu_cell(self, *groups: str) -> str:
        """Milliseconds a request, and the share of all CPU time."""
        seconds = sum(self.cpu_seconds[group] for group in groups)
        each = seconds / len(self.answers.milliseconds) * 1000
        return f"{each:.2f} ({seconds / self.whole:.1%})"

    def wall_cell(self, milliseconds: Sequence[float]) -> str:
        """Median, and the median share of the request's time."""
        whole = self.answers.milliseconds
        share = statistics.median(p / w for p, w in zip(milliseconds, whole, strict=True))
        return f"{statistics.median(milliseconds):.2f} ({share:.1%})"

    def part(self, name: str) -> list[float]:
        """Milliseconds of each request that the server names so."""
        return [timing[name] for timing in self.answers.server_timings]

    @property
    def rest(self) -> list[float]:
        """Milliseconds of each request that the server names nothing of."""
        named = (sum(timing.values()) for timing in self.answers.server_timings)
        return [w - n for w, n in zip(self.answers.milliseconds, named, strict=True)]


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=96, help="for each count (%(default)s)")
    parser.add_argument("--texts", type=int, default=32, help="of a request (%(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    load = make_load(weights(), options.requests * options.texts, seed=0)
    bodies = list(request_bodies(load.texts, options.texts, MODEL))
    context = multiprocessing.get_context("spawn")
    with serving(options.dtype) as endpoint, ProcessPoolExecutor(1, mp_context=context) as client:
        client.submit(post_all, endpoint, bodies[: max(CROWDS)], max(CROWDS)).result()
        profiles = []
        for clients in CROWDS:
            before = cpu_seconds()
            answers = client.submit(post_all, endpoint, bodies, clients).result()
            spent = {group: now - before[group] for group, now in cpu_seconds().items()}
            profiles.append(Profile(spent, answers))
    print("\n".join(report(profiles)))
    tokens = load.tokens / options.requests
    print(
        f"\n- {MODEL}, {options.dtype}; for each count of clients {options.requests} requests of"
        f" {options.texts} mixed texts, {tokens:.0f} tokens a request on average"
    )
    print(f"- {machine_line({})}")
    return 0


def report(profiles: Sequence[Profile]) -> Iterator[str]:
    """Both tables, as lines."""
    crowds = [f"{count} client{'s' * (count > 1)}" for count in CROWDS]
    yield from _head("CPU time of the server: ms a request (share)", crowds)
    for group in (WORKERS, HTTP, TOKENIZERS, OTHERS):
        yield _row(group, [profile.cpu_cell(group) for profile in profiles])
    together = [f"**{profile.cpu_cell(HTTP, TOKENIZERS)}**" for profile in profiles]
    yield _row("**HTTP, JSON and tokenising together**", together)
    yield ""
    yield from _head("time of a request: median ms (median share)", crowds)
    for name in PARTS:
        yield _row(f"`{name}`", [profile.wall_cell(profile.part(name)) for profile in profiles])
    rest = [profile.wall_cell(profile.rest) for profile in profiles]
    yield _row("the rest: HTTP and JSON on both sides, waiting for a core", rest)
    whole = [f"{statistics.median(profile.answers.milliseconds):.2f}" for profile in profiles]
    yield _row("as the client sees it", whole)


def cpu_seconds() -> dict[str, float]:
    """CPU time of this process so far, by group of threads.

    By the threads' own clocks; what no thread of Python's has used is the others'.
    """
    seconds = dict.fromkeys((*GROUPS.values(), OTHERS), 0.0)
    for thread in threading.enumerate():
        if thread.ident is not None:
            clock = time.pthread_getcpuclockid(thread.ident)
            seconds[_group(thread.name)] += time.clock_gettime(clock)
    seconds[OTHERS] += time.process_time() - sum(seconds.values())
    return seconds


def _group(thread: str) -> str:
    return next((group for name, group in GROUPS.items() if thread.startswith(name)), OTHERS)


@contextmanager
def serving(dtype: str) -> Iterator[Endpoint]:
    """The real server on a free port, in a thread, until the block ends."""
    model = ModelSettings.model_validate({"model": f"embedded:{MODEL}", "dtype": dtype})
    server = ApplianceServer(Settings(port=0, models=(model,)))
    thread = threading.Thread(target=server.run, name=SERVER_THREAD)
    thread.start()
    try:
        while not server.started:
            time.sleep(POLL_SECONDS)
        port = server.servers[0].sockets[0].getsockname()[1]
        while not httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).is_success:
            time.sleep(POLL_SECONDS)
        headers = {"content-type": "application/json"}
        yield Endpoint("127.0.0.1", port, "/v1/embeddings", headers)
    finally:
        server.should_exit = True
        thread.join()


def _head(first: str, others: Sequence[str]) -> Iterator[str]:
    yield _row(first, others)
    yield "|---|" + "---:|" * len(others)


def _row(first: str, cells: Sequence[str]) -> str:
    return f"| {first} | {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
