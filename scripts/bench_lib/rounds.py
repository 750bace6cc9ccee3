# SPDX-License-Identifier: Apache-2.0
"""The rounds: in each, every system is measured once, alone, the others being idle.

Ratios are taken within a round, so that what slows the machine for a while slows both their sides.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bench_lib.load import batch_tokens
from bench_lib.processes import CpuMeter
from bench_lib.systems import ServerSystem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bench_lib.load import Load
    from bench_lib.systems import Pass, System
    from bench_lib.workers import Worker

__all__ = ["BARE", "FLOOR", "LEAST_COSINE", "PREPACKED_FLOOR", "Lone", "Rate", "Results", "Rounds"]

Step = Callable[[], str]
"""Measures one thing once; returns a line about it."""

FLOOR = "GEMM floor"
PREPACKED_FLOOR = "GEMM floor, weights prepacked"
BARE = "bare forward pass"
LEAST_COSINE = 0.9999


@dataclass
class Rate:
    """Throughput of one system; lists hold a value a round."""

    tokens_per_second: list[float] = field(default_factory=list)
    foreign_share: list[float] = field(default_factory=list)
    """Of the machine's time, what was used by neither the system nor the client."""
    client_share: list[float] = field(default_factory=list)
    cosine: float = 1.0
    """The lowest to sentence-transformers' vectors, over all texts and passes."""
    peak_bytes: int | None = None
    start_seconds: float | None = None


@dataclass
class Lone:
    """Milliseconds of a short text alone: one list a round."""

    rounds: list[list[float]] = field(default_factory=list)

    def medians(self) -> list[float]:
        return [statistics.median(one) for one in self.rounds]

    def percentile(self, percent: float) -> float:
        return float(np.percentile([one for each in self.rounds for one in each], percent))


@dataclass
class Results:
    """Everything measured, by the system's name; the floor and the bare pass among them."""

    rates: dict[str, Rate] = field(default_factory=dict)
    lone: dict[str, Lone] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


class Rounds:
    """Runs the rounds over systems that are up and idle."""

    def __init__(
        self,
        load: Load,
        bare: Worker,
        systems: Sequence[System],
        reference: NDArray[np.float32],
        lone_requests: int,
    ) -> None:
        self.load = load
        self.bare = bare
        self.systems = systems
        self.reference = reference
        self.lone_requests = lone_requests
        self.results = Results()
        for name in (FLOOR, PREPACKED_FLOOR, *(system.name for system in systems)):
            self.results.rates[name] = Rate()

    def warm(self) -> None:
        """One pass of each, checked but not timed."""
        for system in self.systems:
            _say(f"warm-up: {system.name}")
            self._check(system.name, system.embed(self.load))

    def run(self, count: int) -> Results:
        floors = [self._floor(FLOOR), self._floor(PREPACKED_FLOOR)]
        throughput = [*floors, *(self._throughput(system) for system in self.systems)]
        servers = [system for system in self.systems if isinstance(system, ServerSystem)]
        lone = [self._bare, *(self._lone(server) for server in servers)]
        for number in range(count):
            # Another one begins each time, so that none always follows the same other.
            for step in (*_rotated(throughput, number), *_rotated(lone, number)):
                _say(f"round {number + 1} of {count}: {step()}")
        for system in self.systems:
            rate = self.results.rates[system.name]
            rate.start_seconds = system.start_seconds
            if system.process is not None:
                rate.peak_bytes = system.process.peak_bytes()
        return self.results

    def _floor(self, name: str) -> Step:
        def step() -> str:
            rate = self.results.rates[name]
            batches = batch_tokens(self.load.token_counts)
            meter = CpuMeter(self.bare.child.pid)
            seconds = self.bare.floor(batches, prepacked=name == PREPACKED_FLOOR)
            rate.foreign_share.append(meter.foreign_share())
            rate.tokens_per_second.append(self.load.tokens / seconds)
            return f"{name}: {self.load.tokens / seconds:.0f} tokens/s"

        return step

    def _throughput(self, system: System) -> Step:
        def step() -> str:
            rate = self.results.rates[system.name]
            process = system.process
            meter = CpuMeter(process.child.pid) if process is not None else None
            one = system.embed(self.load)
            if meter is not None:
                rate.foreign_share.append(meter.foreign_share())
            rate.tokens_per_second.append(self.load.tokens / one.seconds)
            machine_seconds = one.seconds * (os.cpu_count() or 1)
            rate.client_share.append(one.client_cpu_seconds / machine_seconds)
            self._check(system.name, one)
            return f"{system.name}: {self.load.tokens / one.seconds:.0f} tokens/s"

        return step

    def _bare(self) -> str:
        return self._keep_lone(BARE, self.bare.forward(self.load.lone_text, self.lone_requests))

    def _lone(self, server: ServerSystem) -> Step:
        def step() -> str:
            milliseconds = server.lone(self.load.lone_text, self.lone_requests)
            return self._keep_lone(server.name, milliseconds)

        return step

    def _keep_lone(self, name: str, milliseconds: list[float]) -> str:
        self.results.lone.setdefault(name, Lone()).rounds.append(milliseconds)
        return f"{name}, lone text: {statistics.median(milliseconds):.2f} ms"

    def _check(self, name: str, one: Pass) -> None:
        rate = self.results.rates[name]
        rate.cosine = min(rate.cosine, _lowest_cosine(one.vectors, self.reference))
        # Written so that a NaN is a fault too.
        if not rate.cosine > LEAST_COSINE:
            self.results.faults[name] = f"WRONG VECTORS: lowest cosine {rate.cosine:.6f}"
        if one.usage_tokens not in (None, self.load.tokens):
            counted = f"{one.usage_tokens} tokens, the tokenizer {self.load.tokens}"
            self.results.faults[name] = f"WRONG USAGE: counts {counted}"


def _lowest_cosine(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    if ours.shape != theirs.shape:
        return float("nan")
    left, right = ours.astype(np.float64), theirs.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / norms).min())


def _rotated(steps: Sequence[Step], by: int) -> list[Step]:
    start = by % len(steps)
    return [*steps[start:], *steps[:start]]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
