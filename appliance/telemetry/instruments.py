# SPDX-License-Identifier: Apache-2.0
"""What is measured once a request, a batch or a load."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View

from appliance.engine.watching import BatchReport, LoadReport
from appliance.telemetry.notes import OTHER, REFUSALS, HttpExchange, RequestNotes, refusal
from appliance.telemetry.tei_metrics import TeiMetrics

__all__ = ["BOUNDARIES", "OPERATION", "PROVIDER", "Instruments", "ModelNames", "views"]

OK = 200

OPERATION = "embeddings"
"""``gen_ai.operation.name``."""

PROVIDER = "embeddings-appliance"
"""``gen_ai.provider.name``."""

MOST_MODEL_NAMES = 256

_HTTP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_GEN_AI_SECONDS = tuple(0.01 * 2**power for power in range(14))
_GEN_AI_TOKENS = tuple(4**power for power in range(14))
_STAGE_SECONDS = (
    *(0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_LOAD_SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_BODY_BYTES = tuple(4**power for power in range(4, 14))
_BATCH_TOKENS = tuple(2**power for power in range(3, 18))
_BATCH_TEXTS = tuple(2**power for power in range(12))

BOUNDARIES: dict[str, Sequence[float]] = {
    "http.server.request.duration": _HTTP_SECONDS,
    "http.server.request.body.size": _BODY_BYTES,
    "http.server.response.body.size": _BODY_BYTES,
    "gen_ai.server.request.duration": _GEN_AI_SECONDS,
    "gen_ai.client.token.usage": _GEN_AI_TOKENS,
    "appliance.tokenize.duration": _STAGE_SECONDS,
    "appliance.queue.duration": _STAGE_SECONDS,
    "appliance.batch.duration": _STAGE_SECONDS,
    "appliance.batch.tokens": _BATCH_TOKENS,
    "appliance.batch.texts": _BATCH_TEXTS,
    "appliance.model.load.duration": _LOAD_SECONDS,
}
"""Bounds of each histogram's buckets; those of ``http.*`` and ``gen_ai.*`` by the conventions."""


def views() -> list[View]:
    """Give each histogram its buckets."""
    return [
        View(
            instrument_name=name,
            aggregation=ExplicitBucketHistogramAggregation([float(each) for each in boundaries]),
        )
        for name, boundaries in BOUNDARIES.items()
    ]


class ModelNames:
    """Names of models as attributes: each its own, until there have been very many.

    A series lasts as long as the process, and an instance may have models added and removed all
    day long.
    """

    def __init__(self, most: int = MOST_MODEL_NAMES) -> None:
        self._most = most
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, name: str) -> str:
        """The attribute for a model that is served."""
        if name in self._known:
            return name
        with self._lock:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(name)
        return name


class Instruments:
    """The histograms, and what is counted beside the engine.

    Args:
        meter: Makes them.
        names: Names of models.
        tei: Counts by TEI's names as well, if it is asked to.
    """

    def __init__(self, meter: Meter, names: ModelNames, tei: TeiMetrics | None = None) -> None:
        self._names = names
        self._tei = tei
        self._refused = Counter(dict.fromkeys(REFUSALS, 0))
        self.active: Counter[tuple[str, str]] = Counter()
        """Requests being served, by method and scheme. Written by the event loop."""
        histogram = meter.create_histogram
        self._http_seconds = histogram(
            "http.server.request.duration", "s", "Duration of HTTP requests."
        )
        self._request_bytes = histogram(
            "http.server.request.body.size",
            "By",
            "Size of the bodies of requests that got embeddings.",
        )
        self._response_bytes = histogram(
            "http.server.response.body.size", "By", "Size of the bodies of their answers."
        )
        self._gen_ai_seconds = histogram(
            "gen_ai.server.request.duration", "s", "Duration of requests for embeddings."
        )
        self._gen_ai_tokens = histogram(
            "gen_ai.client.token.usage", "{token}", "Tokens that the model saw for a request."
        )
        self._tokenize = histogram(
            "appliance.tokenize.duration", "s", "Time to tokenise a request's texts."
        )
        self._queue = histogram(
            "appliance.queue.duration", "s", "Time that a request waited for its first batch."
        )
        self._batch_seconds = histogram(
            "appliance.batch.duration", "s", "Time from taking a batch to answering its requests."
        )
        self._batch_tokens = histogram("appliance.batch.tokens", "{token}", "Tokens of a batch.")
        self._batch_texts = histogram("appliance.batch.texts", "{text}", "Texts of a batch.")
        self._load_seconds = histogram(
            "appliance.model.load.duration", "s", "Time to get a model ready from its own files."
        )
        meter.create_observable_up_down_counter(
            "http.server.active_requests",
            [self._observe_active],
            "{request}",
            "HTTP requests being served.",
        )
        meter.create_observable_counter(
            "appliance.requests.refused",
            [self._observe_refused],
            "{request}",
            "Requests refused for a bound, by the bound.",
        )

    def exchanged(self, exchange: HttpExchange, notes: RequestNotes, *, embeds: bool) -> None:
        """Measure a request that has been answered. On the event loop.

        Args:
            exchange: As HTTP has it.
            notes: What was noted on its way.
            embeds: Whether its route gives embeddings.
        """
        attributes = exchange.attributes
        self._http_seconds.record(exchange.seconds, attributes)
        if embeds and exchange.status == OK:  # other bodies tell little, for a series each
            if exchange.request_bytes is not None:
                self._request_bytes.record(exchange.request_bytes, attributes)
            self._response_bytes.record(exchange.response_bytes, attributes)
        if reason := refusal(notes.error):
            self._refused[reason] += 1
        if embeds and self._tei is not None:
            self._tei.exchanged(exchange, notes)
        if embeds and notes.model is not None:
            self._embedded(self._names(notes.model), exchange, notes)

    def _embedded(self, model: str, exchange: HttpExchange, notes: RequestNotes) -> None:
        attributes = {
            "gen_ai.operation.name": OPERATION,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": model,
        }
        seconds = notes.started + exchange.seconds - notes.asked
        if notes.error is not None:
            failed = {**attributes, "error.type": type(notes.error).__name__}
            self._gen_ai_seconds.record(seconds, failed)
            return
        self._gen_ai_seconds.record(seconds, attributes)
        if notes.result is not None:
            used = {**attributes, "gen_ai.token.type": "input"}
            self._gen_ai_tokens.record(notes.result.tokens, used)
            of_model = {"model": model}
            self._tokenize.record(notes.result.timings.tokenize, of_model)
            self._queue.record(notes.result.timings.queue, of_model)

    def batch_done(self, report: BatchReport) -> None:
        """Measure a batch."""
        attributes = {"model": self._names(report.model), "device": report.device}
        self._batch_seconds.record(report.seconds, attributes)
        self._batch_tokens.record(report.tokens, attributes)
        self._batch_texts.record(report.texts, attributes)
        if self._tei is not None:
            self._tei.batch_done(report)

    def loaded(self, report: LoadReport) -> None:
        """Measure a load that went well."""
        if not report.reason:
            self._load_seconds.record(report.seconds, {"model": self._names(report.model)})

    def _observe_active(self, _: CallbackOptions) -> Iterable[Observation]:
        for (method, scheme), count in self.active.copy().items():
            yield Observation(count, {"http.request.method": method, "url.scheme": scheme})

    def _observe_refused(self, _: CallbackOptions) -> Iterable[Observation]:
        for reason, count in self._refused.copy().items():
            yield Observation(count, {"reason": reason})
