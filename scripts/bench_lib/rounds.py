# SPDX-License-Identifier: Apache-2.0
"""The rounds: in each, everything is measured once, alone, all else being idle."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench_lib.load import batch_tokens
from bench_lib.processes import CpuMeter, busy_core
from bench_lib.results import Facts, Lone, Results, bare, floor
from bench_lib.systems import LEAST_COSINE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from bench_lib.load import Load
    from bench_lib.systems import Pass, ServerSystem, System
    from bench_lib.workers import Worker

__all__ = ["Reference", "Rounds", "Scenario"]

Step = Callable[[], str]
"""Measures one thing once; returns a line about it."""


@dataclass(frozen=True)
class Reference:
    """Texts, and the vectors that they should have."""

    load: Load
    vectors: NDArray[np.float32]

    def first(self, count: int) -> Reference:
        return Reference(self.load.first(count), self.vectors[:count])


@dataclass(frozen=True)
class Scenario:
    """Conditions under which systems are measured."""

    name: str
    texts: Reference
    clients: int
    busy_core: bool = False
    """Whether another process takes one of the cores."""


class Rounds:
    """Measures systems that are up and idle."""

    def __init__(self, worker: Worker, systems: Sequence[System]) -> None:
        self.worker = worker
        self.results = Results()
        for system in systems:
            self.results.facts[system.name] = Facts(
                dtype=system.dtype, start_seconds=system.start_seconds
            )

    def warm(self, systems: Sequence[System], texts: Reference, clients: int) -> None:
        """One pass of each, checked but not timed."""
        for system in systems:
            say(f"warm-up: {system.name}")
            self._check(system, system.embed(texts.load, clients), texts)

    def run(self, count: int, *groups: Sequence[Step]) -> None:
        """Run each group's steps once a round."""
        for number in range(count):
            # Another one begins each time, so that none always follows the same other.
            for step in [step for group in groups for step in _rotated(group, number)]:
                say(f"round {number + 1} of {count}: {step()}")

    def note_peaks(self, systems: Sequence[System]) -> None:
        """Keep how much memory each has needed so far."""
        for system in systems:
            if system.process is not None:
                self.results.facts[system.name].peak_bytes = system.process.peak_bytes()

    def floors(
        self, scenario: Scenario, dtypes: Sequence[str], *, prepacked: bool = False
    ) -> Iterator[Step]:
        """Steps that time the linear layers alone, plain ones and if asked prepacked ones."""
        for dtype in dtypes:
            yield self._floor(scenario, dtype, prepacked=False)
            if prepacked:
                yield self._floor(scenario, dtype, prepacked=True)

    def _floor(self, scenario: Scenario, dtype: str, *, prepacked: bool) -> Step:
        name = floor(dtype, prepacked=prepacked)
        load = scenario.texts.load

        def step() -> str:
            meter = CpuMeter(self.worker.child.pid)
            batches = batch_tokens(load.token_counts)
            seconds = self.worker.floor(batches, dtype, prepacked=prepacked)
            if seconds is None:
                return f"{name}: not on this CPU"
            rate = self.results.rate(scenario.name, name)
            rate.foreign_share.append(meter.foreign_share())
            rate.tokens_per_second.append(load.tokens / seconds)
            return f"{name}: {load.tokens / seconds:.0f} tokens/s"

        return step

    def throughput(self, scenario: Scenario, systems: Sequence[System]) -> Iterator[Step]:
        """Steps that give each system the scenario's load."""
        for system in systems:
            yield self._throughput(scenario, system)

    def _throughput(self, scenario: Scenario, system: System) -> Step:
        load = scenario.texts.load

        def step() -> str:
            rate = self.results.rate(scenario.name, system.name)
            with busy_core() if scenario.busy_core else nullcontext() as busy:
                measured = [system.process.child.pid] if system.process is not None else []
                meter = CpuMeter(*measured, *([busy] if busy is not None else []))
                one = system.embed(load, scenario.clients)
                if measured:
                    rate.foreign_share.append(meter.foreign_share())
            rate.tokens_per_second.append(load.tokens / one.seconds)
            machine_seconds = one.seconds * (os.cpu_count() or 1)
            rate.client_share.append(one.client_cpu_seconds / machine_seconds)
            self._check(system, one, scenario.texts)
            speed = f"{load.tokens / one.seconds:.0f} tokens/s"
            return f"{scenario.name}: {system.name}: {speed}"

        return step

    def lone(
        self, servers: Sequence[ServerSystem], dtypes: Sequence[str], text: str, times: int
    ) -> Iterator[Step]:
        """Steps that time a short text alone, and its forward pass with nothing around it."""
        for dtype in dtypes:
            yield self._bare(dtype, text, times)
        for server in servers:
            yield self._lone(server, text, times)

    def _bare(self, dtype: str, text: str, times: int) -> Step:
        return lambda: self._keep(bare(dtype), self.worker.forward(text, dtype, times))

    def _lone(self, server: ServerSystem, text: str, times: int) -> Step:
        return lambda: self._keep(server.name, server.lone(text, times))

    def _keep(self, name: str, milliseconds: list[float]) -> str:
        self.results.lone.setdefault(name, Lone()).rounds.append(milliseconds)
        return f"{name}, lone text: {statistics.median(milliseconds):.2f} ms"

    def _check(self, system: System, one: Pass, texts: Reference) -> None:
        facts = self.results.facts[system.name]
        # Both written so that a NaN stays one and is a fault.
        facts.cosine = float(np.minimum(facts.cosine, lowest_cosine(one.vectors, texts.vectors)))
        if not facts.cosine > LEAST_COSINE.get(system.dtype, -1.0):
            self.results.faults[system.name] = f"WRONG VECTORS: lowest cosine {facts.cosine:.6f}"
        if one.usage_tokens not in (None, texts.load.tokens):
            counted = f"{one.usage_tokens} tokens, the tokenizer {texts.load.tokens}"
            self.results.faults[system.name] = f"WRONG USAGE: counts {counted}"


def lowest_cosine(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Over all texts; NaN if the shapes differ."""
    if ours.shape != theirs.shape:
        return float("nan")
    left, right = ours.astype(np.float64), theirs.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / norms).min())


def _rotated(steps: Sequence[Step], by: int) -> list[Step]:
    start = by % max(len(steps), 1)
    return [*steps[start:], *steps[:start]]


def say(line: str) -> None:
    """Tell whoever watches."""
    print(line, file=sys.stderr, flush=True)
