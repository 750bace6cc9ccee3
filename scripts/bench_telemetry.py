# SPDX-License-Identifier: Apache-2.0
"""Measure what telemetry costs.

    python scripts/bench_telemetry.py

Serves the embedded model twice: with all telemetry switched off, and with all of it on: each
request traced, spans and metrics sent to a collector on this machine, and `/metrics` read every
second. Sends both the same texts in turns and prints a Markdown table. The collector takes its time
from the same cores, so the cost is an upper bound.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

import httpx
from bench_lib.client import Endpoint, post_all
from bench_lib.load import Load, Shape, make_load, request_bodies
from bench_lib.machine import machine_line
from bench_lib.options import weights
from bench_lib.own_server import OwnServer, serve
from bench_lib.servers import MODEL

TEXTS: dict[Shape, int] = {"short": 2048, "mixed": 768}
SCRAPE_SECONDS = 1.0
JSON = {"content-type": "application/json"}
MOST_COST = 0.03


@dataclass
class Rounds:
    """Tokens a second of each round.

    Attributes:
        off: Without telemetry, before and after each turn with it.
        on: With it.
    """

    off: list[tuple[float, float]] = field(default_factory=list)
    on: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """With telemetry to without, the turns before and after it averaged."""
        pairs = zip(self.on, self.off, strict=True)
        return [on / statistics.mean(around) for on, around in pairs]

    @property
    def noise(self) -> list[float]:
        """Two turns without telemetry to each other: what a ratio can be of itself."""
        return [after / before for before, after in self.off]


class _Sink(BaseHTTPRequestHandler):
    """Takes whatever comes."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(httpx.codes.OK)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Nothing."""


def _collect(port: Connection) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sink)
    port.send(server.server_port)
    server.serve_forever()


@contextmanager
def collector() -> Iterator[str]:
    """A collector in a process of its own; its URL."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_collect, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


@contextmanager
def scraping(server: OwnServer) -> Iterator[None]:
    """Read a server's metrics now and then."""
    ended = threading.Event()

    def scrape() -> None:
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            while not ended.wait(SCRAPE_SECONDS):
                client.get("/metrics").raise_for_status()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def measure(server: OwnServer, load: Load, options: argparse.Namespace) -> float:
    """Tokens a second."""
    bodies = list(request_bodies(load.texts, options.texts, MODEL))
    address = urlsplit(server.url)
    assert address.hostname is not None
    assert address.port is not None
    endpoint = Endpoint(address.hostname, address.port, "/v1/embeddings", JSON)
    answers = post_all(endpoint, bodies, options.clients)
    return answers.usage_tokens / answers.seconds


def run(options: argparse.Namespace) -> dict[Shape, Rounds]:
    """Measure both servers in turns."""
    counts = {shape: max(64, count // options.divisor) for shape, count in TEXTS.items()}
    loads = {s: make_load(weights(), count, options.seed, s) for s, count in counts.items()}
    found = {shape: Rounds() for shape in loads}
    models = [{"model": f"embedded:{MODEL}", "dtype": options.dtype}]
    with ExitStack() as stack:
        url = stack.enter_context(collector())
        off = stack.enter_context(serve(models, environment={"OTEL_SDK_DISABLED": "true"}))
        on = stack.enter_context(serve(models, otlp_endpoint=url))
        for server in (off, on):
            for load in loads.values():
                measure(server, load, options)
        for _ in range(options.rounds):
            for shape, load in loads.items():
                before = measure(off, load, options)
                with scraping(on):
                    found[shape].on.append(measure(on, load, options))
                found[shape].off.append((before, measure(off, load, options)))
    return found


def _cell(values: Sequence[float], digits: int) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"


def report(found: dict[Shape, Rounds], options: argparse.Namespace) -> None:
    """Print the table."""
    print(
        "| texts | off, tokens/s | on, tokens/s | on / off | off / off |\n|---|---:|---:|---:|---:|"
    )
    for shape, rounds in found.items():
        off = [statistics.mean(around) for around in rounds.off]
        cells = [_cell(off, 0), _cell(rounds.on, 0), _cell(rounds.ratios, 3)]
        print("|", " | ".join([shape, *cells, _cell(rounds.noise, 3)]), "|")
    print(
        f"\n- {MODEL}, {options.dtype}; {options.clients} clients of {options.texts} texts a"
        f" request; {options.rounds} rounds, medians (least..most)\n- {machine_line({})}"
    )


def main() -> int:
    """Run it; 1 if telemetry costs more than it may."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="(%(default)s)")
    parser.add_argument("--clients", type=int, default=16, help="(%(default)s)")
    parser.add_argument("--texts", type=int, default=8, help="a request (%(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick",
        dest="divisor",
        action="store_const",
        const=16,
        default=1,
        help="a smoke run: the figures are no use",
    )
    options = parser.parse_args()
    found = run(options)
    report(found, options)
    too_dear = [s for s, r in found.items() if statistics.median(r.ratios) < 1 - MOST_COST]
    return 1 if too_dear else 0


if __name__ == "__main__":
    sys.exit(main())
