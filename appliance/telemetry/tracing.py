# SPDX-License-Identifier: Apache-2.0
"""Spans: one tree a request, and one span for each batch, load and move of weights.

Only a request's own span is open while it is served, so that its log lines can name it. What
happens within is written down when the answer is out, from the times that travel in the result:
no context has to follow the work from thread to thread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from litestar.types import HTTPScope
from opentelemetry import context, propagate
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation import set_span_in_context

from appliance import __version__
from appliance.engine.types import Embedding, Timings
from appliance.engine.watching import BatchReport, LoadReport, MoveReport
from appliance.telemetry.instruments import OPERATION, PROVIDER
from appliance.telemetry.notes import OTHER, HttpExchange, RequestNotes

__all__ = ["RequestSpan", "Tracing"]

SCOPE = "embeddings-appliance"

Attributes = Mapping[str, str | int | bool | tuple[str, ...]]


class RequestSpan:
    """The span of a request that is being served.

    Args:
        tracing: Makes spans.
        span: The span.
    """

    def __init__(self, tracing: Tracing, span: Span) -> None:
        self._tracing = tracing
        self._span = span
        self._context = set_span_in_context(span)
        self._token = context.attach(self._context)

    @property
    def link(self) -> SpanContext | None:
        """What batches link to; ``None`` if the request is not sampled."""
        return self._span.get_span_context() if self._span.is_recording() else None

    def end(self, exchange: HttpExchange, notes: RequestNotes) -> None:
        """Write down what has happened, and be the current span no more.

        Args:
            exchange: As HTTP has it.
            notes: What was noted on its way.
        """
        context.detach(self._token)
        span = self._span
        if not span.is_recording():
            return
        span.set_attribute("http.response.status_code", exchange.status)
        if exchange.route is not None:
            span.set_attribute("http.route", exchange.route)
            span.update_name(f"{_named(exchange.method)} {exchange.route}")
        if exchange.status >= 500:
            span.set_attribute("error.type", str(exchange.status))
            span.set_status(Status(StatusCode.ERROR))
        if notes.error is not None:
            span.set_attribute("error.type", type(notes.error).__name__)
        end = notes.started + exchange.seconds
        if notes.model is not None:
            self._tracing.write_embedding(self._context, notes, end)
        span.end(self._tracing.at(end))


class Tracing:
    """Makes spans.

    Args:
        requests: For what happens within requests, sampled as is set.
        batches: For batches of sampled requests, which are all wanted.
    """

    def __init__(self, requests: TracerProvider, batches: TracerProvider) -> None:
        self._tracer = requests.get_tracer(SCOPE, __version__)
        self._batch_tracer = batches.get_tracer(SCOPE, __version__)
        self._epoch = time.time_ns() - time.perf_counter_ns()
        propagator = propagate.get_global_textmap()
        self._extract = propagator.extract
        self._headers = {name.lower().encode() for name in propagator.fields}

    def at(self, moment: float) -> int:
        """Nanoseconds since 1970 of a moment of ``time.perf_counter``."""
        return self._epoch + int(moment * 1e9)

    def begin(self, scope: HTTPScope, method: str, started: float) -> RequestSpan:
        """Start the span of a request, within the trace that its client names, if it does.

        Args:
            scope: The request's.
            method: Its method, as spans may be named.
            started: When it came, by ``time.perf_counter``.
        """
        # Clocks are set now and then: no span is far off, though the process runs for weeks.
        self._epoch = time.time_ns() - time.perf_counter_ns()
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in self._headers
        }
        parent = self._extract(carrier, Context()) if carrier else Context()
        span = self._tracer.start_span(
            _named(method),
            parent,
            SpanKind.SERVER,
            {
                "http.request.method": method,
                "url.scheme": scope["scheme"],
                "url.path": scope["path"],
                "network.protocol.version": scope["http_version"],
            },
            start_time=self.at(started),
        )
        return RequestSpan(self, span)

    def write_embedding(self, parent: Context, notes: RequestNotes, end: float) -> None:
        """Write down what the engine did for a request, and how its answer was written.

        Args:
            parent: Of the request's own span.
            notes: What was noted on its way.
            end: When the answer was out, by ``time.perf_counter``.
        """
        span = self._tracer.start_span(
            f"{OPERATION} {notes.model}",
            parent,
            SpanKind.INTERNAL,
            _embedding_attributes(notes),
            start_time=self.at(notes.asked),
        )
        if notes.result is not None:
            within = set_span_in_context(span, parent)
            for name, start, seconds in _stages(notes.result.timings):
                stage = self._tracer.start_span(name, within, start_time=self.at(start))
                stage.end(self.at(start + seconds))
        if notes.error is not None:
            span.set_attribute("error.type", type(notes.error).__name__)
            span.set_status(Status(StatusCode.ERROR, str(notes.error)))
        span.end(self.at(end))

    def batch_done(self, report: BatchReport) -> None:
        """Write down a batch, if it served a request that is sampled."""
        links = [Link(trace) for trace in report.traces if isinstance(trace, SpanContext)]
        if not links:
            return
        span = self._batch_tracer.start_span(
            f"batch {report.model}",
            Context(),
            SpanKind.INTERNAL,
            {
                "gen_ai.request.model": report.model,
                "appliance.device": report.device,
                "appliance.batch.texts": report.texts,
                "appliance.batch.tokens": report.tokens,
            },
            links=links,
            start_time=self.at(report.started),
        )
        span.end(self.at(report.started + report.seconds))

    def moved(self, report: MoveReport) -> None:
        """Write down a move of weights."""
        attributes: Attributes = {
            "gen_ai.request.model": report.model,
            "appliance.move.from": report.origin,
            "appliance.move.to": report.to,
            "appliance.move.bytes": report.bytes,
        }
        self._write(f"move {report.model}", attributes, report, report.error)

    def loaded(self, report: LoadReport) -> None:
        """Write down that a model was got ready, or could not be."""
        error = report.reason or None
        self._write(f"load {report.model}", {"gen_ai.request.model": report.model}, report, error)

    def _write(
        self,
        name: str,
        attributes: Attributes,
        report: MoveReport | LoadReport,
        error: Exception | str | None,
    ) -> None:
        start = self.at(report.started)
        span = self._tracer.start_span(name, Context(), attributes=attributes, start_time=start)
        if error is not None:
            kind = type(error).__name__ if isinstance(error, Exception) else "load_failed"
            span.set_attribute("error.type", kind)
            span.set_status(Status(StatusCode.ERROR, str(error)))
        span.end(self.at(report.started + report.seconds))


def _named(method: str) -> str:
    """A method as names of spans have it."""
    return "HTTP" if method == OTHER else method


def _embedding_attributes(notes: RequestNotes) -> Attributes:
    attributes: dict[str, str | int | bool | tuple[str, ...]] = {
        "gen_ai.operation.name": OPERATION,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": notes.model or "",
    }
    if notes.encoding:
        attributes["gen_ai.request.encoding_formats"] = (notes.encoding,)
    if notes.result is not None and notes.options is not None:
        if isinstance(notes.result, Embedding):
            packs_bits = notes.options.output_dtype in ("binary", "ubinary")
            values = notes.result.vectors.shape[1] * (8 if packs_bits else 1)
            attributes["gen_ai.embeddings.dimension.count"] = notes.options.dimensions or values
        attributes["gen_ai.usage.input_tokens"] = notes.result.tokens
    return attributes


def _stages(timings: Timings) -> list[tuple[str, float, float]]:
    """Name, start and seconds of each part of the work."""
    forward = timings.began_to_queue + timings.queue
    stages = [
        ("tokenize", timings.began_to_tokenize, timings.tokenize),
        ("queue", timings.began_to_queue, timings.queue),
        ("forward", forward, timings.forward),
    ]
    if timings.began_to_encode:
        stages.append(("encode", timings.began_to_encode, timings.encode))
    return stages
