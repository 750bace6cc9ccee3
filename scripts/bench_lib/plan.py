# SPDX-License-Identifier: Apache-2.0
"""What is measured of whom, and in which order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench_lib.beside import measure_beside
from bench_lib.load import make_load
from bench_lib.onnx_files import ONNXRUNTIME
from bench_lib.rounds import Reference, Rounds, Scenario, say
from bench_lib.servers import INFINITY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench_lib.load import Load, Shape
    from bench_lib.options import Options
    from bench_lib.results import Results
    from bench_lib.systems import LibrarySystem, ServerSystem, System
    from bench_lib.workers import Worker

__all__ = [
    "BUSY",
    "CLIENTS",
    "DTYPES",
    "FEW",
    "IDLE",
    "LONG",
    "MAIN",
    "SHORT",
    "Systems",
    "measure",
]

MAIN = "mixed texts"
SHORT, LONG = "short texts", "long texts"
FEW = 16
CLIENTS = {count: f"{count} client{'s' * (count > 1)}" for count in (1, FEW, 128)}
IDLE, BUSY = "machine idle", "one core busy"
DTYPES = ("float32", "bfloat16")


@dataclass
class Systems:
    """All that is measured."""

    own: list[ServerSystem] = field(default_factory=list)
    peers: list[ServerSystem] = field(default_factory=list)
    libraries: list[LibrarySystem] = field(default_factory=list)

    @property
    def servers(self) -> list[ServerSystem]:
        return [*self.own, *self.peers]

    @property
    def all(self) -> list[System]:
        return [*self.servers, *self.libraries]

    @property
    def of_lengths(self) -> list[System]:
        """Those whose speed on short and on long texts is told."""
        libraries = [one for one in self.libraries if one.library == ONNXRUNTIME]
        fastest = [one for one in self.peers if one.name == INFINITY or one.dtype == "bfloat16"]
        return [*self.own, *fastest, *libraries]

    @property
    def of_clients(self) -> list[ServerSystem]:
        """Those that are given few clients and many."""
        return [*self.own, *(one for one in self.peers if one.name == INFINITY)]


def measure(options: Options, load: Load, worker: Worker, oracle: Worker, them: Systems) -> Results:
    """Run every scenario.

    Args:
        options: The command line.
        load: Mixed texts, as many as any scenario needs.
        worker: The one that has the bare model.
        oracle: sentence-transformers, whose vectors are the right ones.
        them: Who is measured.
    """
    sizes = options.sizes
    rounds = Rounds(worker, them.all)
    many = _referenced(oracle, load.first(sizes.many_texts))
    main = Scenario(MAIN, many.first(sizes.texts), options.clients)
    rounds.warm(them.all, main.texts, options.clients)
    rounds.run(
        sizes.rounds,
        [*rounds.floors(main, DTYPES, prepacked=True), *rounds.throughput(main, them.all)],
        [*rounds.lone(them.servers, DTYPES, load.lone_text, sizes.lone_requests)],
    )
    rounds.note_peaks(them.all)
    _lengths(rounds, options, oracle, them)
    _clients(rounds, options, many, them)
    _busy(rounds, options, main.texts, them)
    stream = load.first(sizes.stream_texts)
    for system in them.of_clients:
        say(f"lone client beside a stream: {system.name}")
        rounds.results.beside[system.name] = measure_beside(
            system.server.endpoint, stream, sizes.beside_requests, sizes.beside_seconds
        )
    return rounds.results


def _referenced(oracle: Worker, load: Load) -> Reference:
    return Reference(load, oracle.encode(load.texts, sort=True).vectors)


def _lengths(rounds: Rounds, options: Options, oracle: Worker, them: Systems) -> None:
    def scenario(name: str, shape: Shape, count: int) -> Scenario:
        load = make_load(options.model_folder, count, options.seed, shape)
        return Scenario(name, _referenced(oracle, load), options.clients)

    sizes = options.sizes
    _run(
        rounds,
        sizes.side_rounds,
        [scenario(SHORT, "short", sizes.short_texts), scenario(LONG, "long", sizes.long_texts)],
        them.of_lengths,
        floors=True,
    )


def _clients(rounds: Rounds, options: Options, texts: Reference, them: Systems) -> None:
    sizes = options.sizes
    alone = Scenario(CLIENTS[1], texts.first(sizes.texts), clients=1)
    crowds = [Scenario(name, texts, count) for count, name in CLIENTS.items() if count > 1]
    _run(rounds, sizes.side_rounds, [alone, *crowds], them.of_clients)


def _busy(rounds: Rounds, options: Options, texts: Reference, them: Systems) -> None:
    idle = Scenario(IDLE, texts, options.clients)
    busy = Scenario(BUSY, texts, options.clients, busy_core=True)
    _run(rounds, options.sizes.side_rounds, [idle, busy], them.own)


def _run(
    rounds: Rounds,
    count: int,
    scenarios: Sequence[Scenario],
    systems: Sequence[System],
    *,
    floors: bool = False,
) -> None:
    """Interleave systems within scenarios, and scenarios within rounds."""
    groups = [
        [
            *(rounds.floors(scenario, DTYPES) if floors else ()),
            *rounds.throughput(scenario, systems),
        ]
        for scenario in scenarios
    ]
    rounds.run(count, *groups)
