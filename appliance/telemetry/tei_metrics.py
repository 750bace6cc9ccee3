# SPDX-License-Identifier: Apache-2.0
"""Metrics by the names of text-embeddings-inference (TEI), for dashboards that were made for it.

Names, labels, units and buckets are those of ``router/src/prometheus.rs``, ``router/src/http`` and
``core/src`` of https://github.com/huggingface/text-embeddings-inference. ``te_request_*`` count
requests, ``te_embed_*`` and ``te_predict_*`` their inputs. Everything comes of what is noted for
the server's own metrics, so that three things differ:

- A request of one input to ``/predict`` counts once, and among the successes. TEI counts it twice,
  and never as a success.
- All inputs of a request have its mean length, and the same durations; sums and counts are exact.
- A request that fails counts one failure, however many of its inputs are at fault.

A name without ``_total`` is no counter to Prometheus' client library, hence the writing here.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

from appliance.engine.types import Scores
from appliance.engine.watching import BatchReport
from appliance.errors import (
    ClientLeft,
    InputTooLong,
    InvalidRequest,
    Overloaded,
    RequestsExceeded,
    TokensExceeded,
    TooManyInputs,
    WrongModelKind,
)
from appliance.telemetry.notes import HttpExchange, RequestNotes

__all__ = ["TeiMetrics"]

METHODS = ("single", "batch")
FAILURES: tuple[tuple[str, tuple[type[BaseException], ...]], ...] = (
    ("tokenization", (InputTooLong,)),
    ("overloaded", (Overloaded, RequestsExceeded, TokensExceeded)),
    ("batch_size", (TooManyInputs,)),
    ("model_type", (WrongModelKind,)),
    ("validation", (InvalidRequest,)),
    ("missing_values", ()),  # a model that gives too few scores fails here as a whole
    ("dropped", (ClientLeft,)),
    ("inference", (BaseException,)),
)
"""``err``, and what it stands for; the first that fits counts."""

BEGUN = ("tokenization", "dropped", "inference")
"""Failures of requests whose inputs had been taken up."""

SCORING = ("predict", "rerank")
"""Last parts of the paths of routes that score."""


def _seconds() -> list[float]:
    """35 bounds, each half as large again as the one before; multiplied up as TEI does, to the bit.

    The last is 14.6 s.
    """
    bounds, bound = [], 0.00001
    for _ in range(35):
        bound *= 1.5
        bounds.append(bound)
    return bounds


DURATION_SECONDS = _seconds()
INPUT_TOKENS = [2.0**power for power in range(20)]
BATCH_TEXTS = [2.0**power for power in range(13)]
BATCH_TOKENS = [2.0**power for power in range(21)]


class _Histogram:
    """Values by bucket."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def samples(self) -> Iterable[tuple[str, float]]:
        counts, total = self._counts.copy(), 0
        for bound, count in zip(self._bounds, counts, strict=False):
            total += count
            yield f'_bucket{{le="{_plain(bound)}"}}', total
        yield '_bucket{le="+Inf"}', sum(counts)
        yield "_sum", self._sum
        yield "_count", sum(counts)


class _Durations:
    """The four histograms of a request or an input."""

    def __init__(self) -> None:
        self.of = {
            part: _Histogram(DURATION_SECONDS)
            for part in (
                "duration",
                "tokenization_duration",
                "queue_duration",
                "inference_duration",
            )
        }

    def observe(self, parts: Sequence[float], times: int = 1) -> None:
        for histogram, seconds in zip(self.of.values(), parts, strict=True):
            histogram.observe(seconds, times)


class _Inputs:
    """What is counted of inputs: of those to embed, or of those to score."""

    def __init__(self) -> None:
        self.count = 0
        self.success = 0
        self.durations = _Durations()


class TeiMetrics:
    """Counts as TEI does.

    Args:
        waiting: Tells how many texts wait, when somebody asks.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._waiting = waiting
        self._requests = Counter(dict.fromkeys(METHODS, 0))
        self._succeeded = Counter(dict.fromkeys(METHODS, 0))
        self._failed = Counter({name: 0 for name, _ in FAILURES})
        self._durations = _Durations()
        self._input_length = _Histogram(INPUT_TOKENS)
        self._of_inputs = {"embed": _Inputs(), "predict": _Inputs()}
        self._batch_lock = threading.Lock()
        self._batch_size = _Histogram(BATCH_TEXTS)
        self._batch_tokens = _Histogram(BATCH_TOKENS)

    def exchanged(self, exchange: HttpExchange, notes: RequestNotes) -> None:
        """Count a request that has been answered. On the event loop.

        Args:
            exchange: As HTTP has it.
            notes: What was noted on its way.
        """
        if notes.inputs is None:  # it was refused before anybody looked at its inputs
            return
        method = "single" if notes.is_single else "batch"
        self._requests[method] += 1
        inputs = self._of_inputs["predict" if _scores(exchange, notes) else "embed"]
        if notes.error is not None or notes.result is None:
            failure = _failure(notes.error)
            self._failed[failure] += 1
            inputs.count += notes.inputs if failure in BEGUN else 0
            return
        self._succeeded[method] += 1
        inputs.count += notes.inputs
        inputs.success += notes.inputs
        timings = notes.result.timings
        parts = timings.tokenize, timings.queue, timings.forward
        inputs.durations.observe((sum(parts), *parts), notes.inputs)
        whole = notes.started + exchange.seconds - notes.asked
        self._durations.observe((whole, *parts))
        self._input_length.observe(notes.result.tokens / notes.inputs, notes.inputs)

    def batch_done(self, report: BatchReport) -> None:
        """Count a batch. On any thread."""
        with self._batch_lock:
            self._batch_size.observe(report.texts)
            self._batch_tokens.observe(report.tokens)

    def text(self) -> bytes:
        """All of them in Prometheus' text format, version 0.0.4."""
        text: list[str] = []

        def tell(name: str, kind: str, samples: Iterable[tuple[str, float]]) -> None:
            text.append(f"# TYPE te_{name} {kind}\n")
            text.extend(f"te_{name}{suffix} {value}\n" for suffix, value in samples)

        def by(label: str, counts: Counter[str]) -> Iterable[tuple[str, float]]:
            return [(f'{{{label}="{value}"}}', count) for value, count in counts.copy().items()]

        tell("request_count", "counter", by("method", self._requests))
        tell("request_success", "counter", by("method", self._succeeded))
        tell("request_failure", "counter", by("err", self._failed))
        for part, histogram in self._durations.of.items():
            tell(f"request_{part}", "histogram", histogram.samples())
        tell("request_input_length", "histogram", self._input_length.samples())
        for what, inputs in self._of_inputs.items():
            tell(f"{what}_count", "counter", [("", inputs.count)])
            tell(f"{what}_success", "counter", [("", inputs.success)])
            for part, histogram in inputs.durations.of.items():
                tell(f"{what}_{part}", "histogram", histogram.samples())
        with self._batch_lock:
            tell("batch_next_size", "histogram", self._batch_size.samples())
            tell("batch_next_tokens", "histogram", self._batch_tokens.samples())
        tell("queue_size", "gauge", [("", self._waiting())])
        return "".join(text).encode()


def _failure(error: BaseException | None) -> str:
    if error is None:  # nobody was there to answer
        return "dropped"
    return next(name for name, kinds in FAILURES if isinstance(error, kinds))


def _scores(exchange: HttpExchange, notes: RequestNotes) -> bool:
    if notes.result is not None:
        return isinstance(notes.result, Scores)
    return (exchange.route or "").rpartition("/")[2] in SCORING


def _plain(bound: float) -> str:
    """A number without an exponent, as TEI writes it."""
    return f"{Decimal(repr(bound)):f}".removesuffix(".0")
