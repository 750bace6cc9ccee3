# SPDX-License-Identifier: Apache-2.0
"""A collector that keeps what it is sent, by HTTP and by gRPC, to ask it afterwards."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.serving import running


@dataclass(frozen=True)
class Collector:
    """What has arrived."""

    url: str
    traces: list[ExportTraceServiceRequest] = field(default_factory=list)
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def spans(self) -> list[Span]:
        """All spans, by when they started."""
        found = [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    def named(self, name: str) -> list[Span]:
        """Spans of one name."""
        return [span for span in self.spans if span.name == name]

    @property
    def resource(self) -> dict[str, object]:
        """Attributes of who has sent the traces."""
        return attributes(self.traces[-1].resource_spans[0].resource.attributes)

    @property
    def last_metrics(self) -> dict[str, Any]:
        """The last that was told of each metric, by name."""
        return {
            metric.name: metric
            for request in self.metrics
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


def attributes(values: Any) -> dict[str, object]:
    """Attributes as Python has them."""
    return {pair.key: _plain(pair.value) for pair in values}


def _plain(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(each) for each in value.array_value.values]
    return getattr(value, kind)


@contextmanager
def http_collector() -> Iterator[Collector]:
    """One that listens for HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.headers.append({name.lower(): value for name, value in self.headers.items()})
            if self.path == "/v1/traces":
                collector.traces.append(ExportTraceServiceRequest.FromString(body))
            elif self.path == "/v1/metrics":
                collector.metrics.append(ExportMetricsServiceRequest.FromString(body))
            else:
                raise AssertionError(self.path)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Nothing: the tests have a log of their own."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with running(server) as url:
        collector = Collector(url)
        yield collector


@contextmanager
def grpc_collector() -> Iterator[Collector]:
    """One that listens for gRPC."""

    class Traces(TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
            collector.headers.append(_metadata(context))
            collector.traces.append(request)
            return ExportTraceServiceResponse()

    class Metrics(MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
            collector.headers.append(_metadata(context))
            collector.metrics.append(request)
            return ExportMetricsServiceResponse()

    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        add_TraceServiceServicer_to_server(Traces(), server)
        add_MetricsServiceServicer_to_server(Metrics(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        collector = Collector(f"http://127.0.0.1:{port}")
        server.start()
        try:
            yield collector
        finally:
            server.stop(0).wait()


def _metadata(context: Any) -> dict[str, str]:
    found: Mapping[str, str] = dict(context.invocation_metadata())
    return dict(found)
