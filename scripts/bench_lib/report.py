# SPDX-License-Identifier: Apache-2.0
"""Results as Markdown tables and as JSON."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench_lib.load import BATCH_TOKENS
from bench_lib.plan import BUSY, CLIENTS, DTYPES, FEW, IDLE, LONG, MAIN, SHORT
from bench_lib.results import bare, floor, median_ratio
from bench_lib.servers import INFINITY, MODEL
from bench_lib.systems import LEAST_COSINE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench_lib.load import Load
    from bench_lib.options import Options
    from bench_lib.results import Beside, Rate, Results

__all__ = ["as_json", "as_markdown", "setup_lines"]

NONE = "-"
MOST_FOREIGN_SHARE = 0.1

INTRODUCTION = """\
Tokens a second over HTTP, or in process for the libraries, which are given all texts at once. The
GEMM floor is the time that the model's linear layers alone take, as `torch.nn.functional.linear`
computes them in the same number format: attention, normalising, tokenising, HTTP and JSON all come
on top. A server at 1.00 would do all that for nothing. Prepacked weights, which this server uses,
lower the floor."""


def setup_lines(options: Options, load: Load, left_out: Mapping[str, str]) -> list[str]:
    """What was measured, in words."""
    sizes, counts = options.sizes, load.token_counts
    lines = [
        (
            f"{MODEL}; mixed: {len(counts)} texts of {min(counts)} to {max(counts)} tokens, "
            f"{load.tokens / len(counts):.0f} on average; short: {sizes.short_texts} of 10 to 20; "
            f"long: {sizes.long_texts} of 200 to 256; alone: one of {load.lone_tokens}"
        ),
        (
            f"{options.clients} clients unless said, {options.texts_per_request} texts a request, "
            f"base64; many clients share {sizes.many_texts} mixed texts; {sizes.rounds} rounds of "
            f"the first two tables, {sizes.side_rounds} of the others; within a round systems take "
            "turns; ratios are medians of the ratios within a round"
        ),
        (
            f"floor: the model's own layers, {BATCH_TOKENS} tokens a batch; share: of the floor in "
            f"the system's own format; lowest cosine: to sentence-transformers' float32 vectors "
            f"(a fault below {LEAST_COSINE['float32']} in float32, {LEAST_COSINE['bfloat16']} in "
            "bfloat16; int8 is held to none)"
        ),
        (
            "infinity three ways: by default, with BetterTransformer, which takes an `optimum` "
            "below 2 and a `transformers` of 4.48 or older; without it, as `pip install "
            "infinity-emb[torch,server]` leaves it; and its ONNX engine. llama.cpp's server with "
            "its defaults. onnxruntime with BERT's graph fused; int8: dynamic, weights per channel"
        ),
        (
            "peak memory: sum of the processes' peaks after the first table; start: from the "
            "process' start to its first vector, files in the page cache"
        ),
    ]
    return lines + [f"left out: {peer}: {reason}" for peer, reason in left_out.items()]


def as_markdown(results: Results, setup: Sequence[str], machine: str) -> str:
    """The report."""
    tables = [_main_table, _lone_table, _lengths_table, _clients_table, _pressure_table]
    lines = [INTRODUCTION, ""]
    for table in tables:
        if len(rows := list(table(results))) > HEAD_ROWS:
            lines += [*rows, ""]
    lines += [f"- {line}" for line in (*setup, _noise(results), machine)]
    lines += [f"- **{name}: {fault}**" for name, fault in results.faults.items()]
    return "\n".join(lines) + "\n"


def as_json(results: Results, setup: Sequence[str], machine: str) -> dict[str, Any]:
    """Every figure of every round."""
    return {"machine": machine, "setup": list(setup), **asdict(results)}


HEAD_ROWS = 2


def _main_table(results: Results) -> Iterator[str]:
    yield from _head(
        "mixed texts",
        "tokens/s, median (min..max)",
        "share of floor",
        f"x {INFINITY}",
        "peak RSS, MiB",
        "start, s",
        "lowest cosine",
    )
    rates = results.rates[MAIN]
    for name, rate in rates.items():
        facts = results.facts.get(name)
        peak, start = (facts.peak_bytes, facts.start_seconds) if facts else (None, None)
        yield _row(
            name if name not in results.faults else f"{name} **{results.faults[name]}**",
            _spread(rate.tokens_per_second),
            _share(results, MAIN, name),
            _ratio(rate, rates.get(INFINITY)) if facts else NONE,
            NONE if peak is None else f"{peak / 2**20:.0f}",
            NONE if start is None else f"{start:.1f}",
            f"{facts.cosine:.5f}" if facts else NONE,
        )


def _lone_table(results: Results) -> Iterator[str]:
    yield from _head("one short text alone", "p50, ms", "p95, ms", "over the bare pass, ms")
    for name, lone in results.lone.items():
        over = NONE
        if facts := results.facts.get(name):
            theirs = results.lone[bare(facts.dtype)].medians()
            pairs = zip(lone.medians(), theirs, strict=True)
            over = f"{statistics.median(one - other for one, other in pairs):.2f}"
        yield _row(name, f"{lone.percentile(50):.2f}", f"{lone.percentile(95):.2f}", over)


def _lengths_table(results: Results) -> Iterator[str]:
    """Cells of tokens a second, and of the share of the floor."""
    yield from _head("tokens/s (share of floor)", SHORT, MAIN, LONG)
    for name in results.rates.get(SHORT, {}):
        if name in results.facts:
            yield _row(name, *(_with_share(results, one, name) for one in (SHORT, MAIN, LONG)))


def _clients_table(results: Results) -> Iterator[str]:
    few, crowds = CLIENTS[FEW], list(CLIENTS.values())
    yield from _head("tokens/s (ratio to " + few + ")", *crowds)
    for name, base in results.rates.get(few, {}).items():
        cells = []
        for crowd in crowds:
            rate = results.rates[crowd][name]
            ratio = "" if crowd == few else f" ({_ratio(rate, base)})"
            cells.append(f"{statistics.median(rate.tokens_per_second):.0f}{ratio}")
        yield _row(name, *cells)


def _pressure_table(results: Results) -> Iterator[str]:
    names = list(results.beside)
    yield from _head("under pressure", *names)
    busy, idle = results.rates.get(BUSY, {}), results.rates.get(IDLE, {})
    if busy:
        ratios = [_ratio(busy[name], idle[name]) if name in busy else NONE for name in names]
        yield _row("tokens/s with one core taken by another process, to the idle figure", *ratios)
    besides = [results.beside[name] for name in names]
    if besides:
        yield _row("one short text beside a stream of huge calls: requests", *map(_asked, besides))
        for percent in (50, 99):
            yield _row(
                f"its p{percent}, ms (in batches' time)",
                *(_in_batches(beside, percent) for beside in besides),
            )
        yield _row(
            "one batch's time: median `forward` of those requests' `server-timing`, ms",
            *(NONE if beside.batch is None else f"{beside.batch:.0f}" for beside in besides),
        )
        yield _row(
            "the stream's own tokens/s",
            *(f"{beside.stream_tokens_per_second:.0f}" for beside in besides),
        )


def _asked(beside: Beside) -> str:
    return str(len(beside.milliseconds))


def _in_batches(beside: Beside, percent: float) -> str:
    milliseconds = beside.percentile(percent)
    return f"{milliseconds:.0f}" + (
        "" if beside.batch is None else f" ({milliseconds / beside.batch:.1f})"
    )


def _noise(results: Results) -> str:
    rates = [rate for scenario in results.rates.values() for rate in scenario.values()]
    foreign = [share for rate in rates for share in rate.foreign_share]
    client = [share for rate in rates for share in rate.client_share]
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


def _share(results: Results, scenario: str, name: str) -> str:
    """Of the floor in the system's own format; floors themselves are given as they are to it."""
    rates = results.rates[scenario]
    dtype = results.facts[name].dtype if name in results.facts else _floor_dtype(name)
    return _ratio(rates[name], rates.get(floor(dtype)))


def _floor_dtype(name: str) -> str:
    return next(dtype for dtype in DTYPES if name.startswith(floor(dtype)))


def _with_share(results: Results, scenario: str, name: str) -> str:
    rate = results.rates[scenario][name]
    share = _share(results, scenario, name)
    return f"{statistics.median(rate.tokens_per_second):.0f}" + (
        "" if share == NONE else f" ({share})"
    )


def _ratio(rate: Rate, to: Rate | None) -> str:
    if to is None:
        return NONE
    return f"{median_ratio(rate.tokens_per_second, to.tokens_per_second):.2f}"


def _head(first: str, *others: str) -> Iterator[str]:
    yield _row(first, *others)
    yield "|---|" + "---:|" * len(others)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
