# SPDX-License-Identifier: Apache-2.0
"""What was measured: plain figures, one value a round, and the ratios between them.

Ratios are taken within a round, so that what slows the machine for a while slows both their sides.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Beside", "Facts", "Lone", "Rate", "Results", "bare", "floor", "median_ratio"]


def floor(dtype: str, *, prepacked: bool = False) -> str:
    """Name of the time of a model's linear layers alone, as a rate."""
    return f"GEMM floor, {dtype}{', prepacked' if prepacked else ''}"


def bare(dtype: str) -> str:
    """Name of the model's forward pass with nothing around it."""
    return f"bare forward pass, {dtype}"


@dataclass
class Rate:
    """Throughput of one system in one scenario; lists hold a value a round."""

    tokens_per_second: list[float] = field(default_factory=list)
    foreign_share: list[float] = field(default_factory=list)
    """Of the machine's time, what was used by neither the system nor the client."""
    client_share: list[float] = field(default_factory=list)


@dataclass
class Lone:
    """Milliseconds of a short text alone: one list a round."""

    rounds: list[list[float]] = field(default_factory=list)

    def medians(self) -> list[float]:
        return [statistics.median(one) for one in self.rounds]

    def percentile(self, percent: float) -> float:
        return _percentile([one for each in self.rounds for one in each], percent)


@dataclass
class Beside:
    """A lone client's short texts while another client sends huge calls without a pause."""

    milliseconds: list[float]
    """Of each request, as its client sees it."""
    batch_milliseconds: list[float]
    """Of the batch that each was part of, by the server's own account; empty if it gives none."""
    stream_tokens_per_second: float

    def percentile(self, percent: float) -> float:
        return _percentile(self.milliseconds, percent)

    @property
    def batch(self) -> float | None:
        """Milliseconds of a usual batch."""
        return statistics.median(self.batch_milliseconds) if self.batch_milliseconds else None


@dataclass
class Facts:
    """What is told once of a system."""

    dtype: str
    peak_bytes: int | None = None
    """Sum of the peaks of its processes, after the main scenario."""
    start_seconds: float | None = None
    """From the start of the process to its first vector."""
    cosine: float = 1.0
    """The lowest to sentence-transformers' vectors, over all texts and passes."""


@dataclass
class Results:
    """Everything measured, by the system's name; floors and bare passes among them."""

    rates: dict[str, dict[str, Rate]] = field(default_factory=dict)
    """By scenario, then by system."""
    lone: dict[str, Lone] = field(default_factory=dict)
    beside: dict[str, Beside] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    def rate(self, scenario: str, system: str) -> Rate:
        """Where the system's figures of the scenario are kept."""
        return self.rates.setdefault(scenario, {}).setdefault(system, Rate())


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios within each round."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def _percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent))
