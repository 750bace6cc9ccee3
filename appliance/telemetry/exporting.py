# SPDX-License-Identifier: Apache-2.0
"""Where traces and metrics are sent, by OTLP.

What is sent, and how, is told by the standard ``OTEL_*`` variables, which the exporters read by
themselves. The setting ``otlp_endpoint`` comes before ``OTEL_EXPORTER_OTLP_ENDPOINT`` and its
forms for one signal. Nothing is sent unless one of them is set, or an exporter is named by
``OTEL_TRACES_EXPORTER`` or ``OTEL_METRICS_EXPORTER``.
"""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Literal
from urllib.parse import urlsplit

from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.trace.export import SpanExporter

__all__ = ["Seldom", "Signal", "metric_exporters", "quieten", "span_exporters"]

logger = logging.getLogger(__name__)

Signal = Literal["traces", "metrics"]

GRPC_PORT = 4317
"""Where collectors listen for gRPC, by convention."""

LOG_SECONDS = 300.0
"""At most one line in so many seconds tells that telemetry cannot be sent."""

_CREDENTIALS = re.compile(r"[^\s/@:]*:[^\s/@]*@")


def span_exporters(endpoint: str | None) -> list[SpanExporter]:
    """What traces are sent by.

    Args:
        endpoint: The setting.
    """
    exporters: list[SpanExporter] = []
    for name in _wanted("traces", endpoint):
        if name == "console":
            from opentelemetry.sdk.trace.export import ConsoleSpanExporter

            exporters.append(ConsoleSpanExporter())
        elif _speaks_grpc("traces", endpoint):
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
                OTLPSpanExporter as GrpcSpanExporter,
            )

            exporters.append(GrpcSpanExporter(endpoint=endpoint))
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
                OTLPSpanExporter as HttpSpanExporter,
            )

            exporters.append(HttpSpanExporter(endpoint=_url("traces", endpoint)))
    return exporters


def metric_exporters(endpoint: str | None) -> list[MetricExporter]:
    """What metrics are sent by.

    Args:
        endpoint: The setting.
    """
    exporters: list[MetricExporter] = []
    for name in _wanted("metrics", endpoint):
        if name == "console":
            from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

            exporters.append(ConsoleMetricExporter())
        elif _speaks_grpc("metrics", endpoint):
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
                OTLPMetricExporter as GrpcMetricExporter,
            )

            exporters.append(GrpcMetricExporter(endpoint=endpoint))
        else:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import (
                OTLPMetricExporter as HttpMetricExporter,
            )

            exporters.append(HttpMetricExporter(endpoint=_url("metrics", endpoint)))
    return exporters


def _wanted(signal: Signal, endpoint: str | None) -> list[str]:
    """Names of exporters, without those that need none: Prometheus reads ``/metrics`` anyhow."""
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    named = [name.strip().lower() for name in os.environ.get(variable, "").split(",")]
    names = [name for name in named if name]
    if not names:
        return ["otlp"] if _endpoint(signal, endpoint) else []
    for unknown in sorted(set(names) - {"otlp", "console", "none", "prometheus"}):
        logger.warning(
            "%s names %r, which is not known; otlp, console, none are", variable, unknown
        )
    return [] if "none" in names else [name for name in names if name in ("otlp", "console")]


def _endpoint(signal: Signal, endpoint: str | None) -> str | None:
    if endpoint is not None:
        return endpoint
    own = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    return own or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or None


def _speaks_grpc(signal: Signal, endpoint: str | None) -> bool:
    protocol = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    if protocol:
        return protocol.strip().lower() == "grpc"
    target = _endpoint(signal, endpoint) or ""
    return urlsplit(target if "//" in target else f"//{target}").port == GRPC_PORT


def _url(signal: Signal, endpoint: str | None) -> str | None:
    """The URL for one signal; ``None`` has the exporter ask the environment."""
    return None if endpoint is None else f"{endpoint.rstrip('/')}/v1/{signal}"


class Seldom(logging.Handler):
    """Tells in one line, now and then, what exporters have to say at every try."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told: float | None = None
        self._untold = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Tell what a record says, unless something was told lately."""
        now = time.monotonic()
        if self._told is not None and now - self._told < LOG_SECONDS:
            self._untold += 1
            return
        self._told, untold, self._untold = now, self._untold, 0
        reason = str(record.exc_info[1]) if record.exc_info else ""
        message = " ".join(f"{record.getMessage()} {reason}".split())
        told = _CREDENTIALS.sub("***@", message)[:500]
        since = f" ({untold} more such lines since the last)" if untold else ""
        logger.warning("telemetry: %s%s", told, since)


def quieten() -> None:
    """Have OpenTelemetry's own log told seldom, in one line, without tracebacks or passwords."""
    theirs = logging.getLogger("opentelemetry")
    if not any(isinstance(handler, Seldom) for handler in theirs.handlers):
        theirs.addHandler(Seldom())
        theirs.propagate = False
