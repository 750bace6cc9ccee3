# SPDX-License-Identifier: Apache-2.0
"""Results as Markdown tables and as JSON."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench_lib.rounds import BARE, FLOOR, PREPACKED_FLOOR

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench_lib.rounds import Rate, Results

__all__ = ["as_json", "as_markdown"]

NONE = "-"
MOST_FOREIGN_SHARE = 0.1


def as_markdown(results: Results, yardstick: str, setup: Sequence[str], machine: str) -> str:
    """The report; `yardstick` is the system that the others are divided by."""
    lines = [
        *_throughput_table(results, yardstick),
        "",
        *_lone_table(results),
        "",
        *(f"- {line}" for line in (*setup, _noise(results))),
        f"- {machine}",
        *(f"- **{name}: {fault}**" for name, fault in results.faults.items()),
    ]
    return "\n".join(lines) + "\n"


def as_json(results: Results, setup: Sequence[str], machine: str) -> dict[str, Any]:
    """Every figure of every round."""
    return {"machine": machine, "setup": list(setup), **asdict(results)}


def _throughput_table(results: Results, yardstick: str) -> Iterable[str]:
    yield _row(
        "system",
        "tokens/s, median (min..max)",
        "share of GEMM floor",
        f"x {yardstick}",
        "peak RSS, MiB",
        "start to healthy, s",
        "lowest cosine",
    )
    yield "|---|" + "---:|" * 6
    for name, rate in results.rates.items():
        is_floor = name in (FLOOR, PREPACKED_FLOOR)
        fault = results.faults.get(name)
        yield _row(
            name if fault is None else f"{name} **{fault}**",
            _spread(rate.tokens_per_second),
            _ratio(rate, results.rates.get(FLOOR)),
            NONE if is_floor else _ratio(rate, results.rates.get(yardstick)),
            NONE if rate.peak_bytes is None else f"{rate.peak_bytes / 2**20:.0f}",
            NONE if rate.start_seconds is None else f"{rate.start_seconds:.1f}",
            NONE if is_floor else f"{rate.cosine:.7f}",
        )


def _lone_table(results: Results) -> Iterable[str]:
    yield _row("one short text alone", "p50, ms", "p95, ms", "over the bare pass, ms")
    yield "|---|---:|---:|---:|"
    bare = results.lone[BARE].medians()
    for name, lone in results.lone.items():
        over = [ours - theirs for ours, theirs in zip(lone.medians(), bare, strict=True)]
        yield _row(
            name,
            f"{lone.percentile(50):.2f}",
            f"{lone.percentile(95):.2f}",
            NONE if name == BARE else f"{statistics.median(over):.2f}",
        )


def _noise(results: Results) -> str:
    foreign = [share for rate in results.rates.values() for share in rate.foreign_share]
    client = [share for rate in results.rates.values() for share in rate.client_share]
    line = (
        f"CPU of the machine used by others while a system was measured: median "
        f"{statistics.median(foreign):.1%}, most {max(foreign):.1%}; by the bench's client: most "
        f"{max(client, default=0.0):.1%}"
    )
    busy = max(foreign) > MOST_FOREIGN_SHARE
    return (
        f"{line}. **The machine was not idle: run again before you quote this**" if busy else line
    )


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f}..{max(values):.0f})"


def _ratio(rate: Rate, to: Rate | None) -> str:
    """Median of the ratios within each round."""
    if to is None:
        return NONE
    pairs = zip(rate.tokens_per_second, to.tokens_per_second, strict=True)
    return f"{statistics.median(ours / theirs for ours, theirs in pairs):.2f}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
