# SPDX-License-Identifier: Apache-2.0
"""Where telemetry is sent, and what happens where nobody listens."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator

import httpx
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
    OTLPSpanExporter as GrpcSpanExporter,
)
from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
    OTLPSpanExporter as HttpSpanExporter,
)
from opentelemetry.sdk.trace.export import ConsoleSpanExporter
from pydantic import ValidationError

from appliance.settings import ModelSettings, Settings
from appliance.telemetry import exporting
from appliance.telemetry.exporting import Seldom, metric_exporters, span_exporters
from tests.conftest import run_in_thread, run_process
from tests.telemetry.collector import Collector, attributes, http_collector

MODEL = "fake/model"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (ENDPOINT, PROTOCOL, "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"):
        monkeypatch.delenv(name, raising=False)


SERVE_FAKE = """
import sys
import appliance.engine.service
from appliance.cli import main
from tests.fakes import load_fake
appliance.engine.service.load_with_torch = load_fake
sys.exit(main(["serve", "--port", "0", "--models", "fake/model"]))
"""
"""Serve a model that is at hand at once."""


def serve_once(settings: Settings) -> None:
    """Start, answer one request and stop."""
    with run_in_thread(settings) as server:
        assert httpx.get(f"{server.url}/metrics").status_code == 200
        assert server.embed(model=MODEL, input="a").status_code == 200


def settings(**more: object) -> Settings:
    return Settings.model_validate({"models": (ModelSettings(model=MODEL),), **more})


def test_nothing_is_sent_unless_told() -> None:
    assert span_exporters(None) == []
    assert metric_exporters(None) == []


@pytest.mark.parametrize(
    ("endpoint", "protocol", "kind"),
    [
        ("http://collector:4318", None, HttpSpanExporter),
        ("http://collector:4317", None, GrpcSpanExporter),
        ("http://collector:4317", "http/protobuf", HttpSpanExporter),
        ("http://collector:9000", "grpc", GrpcSpanExporter),
    ],
)
def test_the_protocol_is_that_of_the_port_unless_told(
    endpoint: str, protocol: str | None, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    if protocol is not None:
        monkeypatch.setenv(PROTOCOL, protocol)
    [by_setting] = span_exporters(endpoint)
    monkeypatch.setenv(ENDPOINT, endpoint)
    [by_variable] = span_exporters(None)
    assert type(by_setting) is type(by_variable) is kind
    for exporter in (by_setting, by_variable):
        exporter.shutdown()


def test_exporters_can_be_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    assert [type(exporter) for exporter in span_exporters(None)] == [ConsoleSpanExporter]
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert span_exporters("http://collector:4318") == []
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus")
    assert metric_exporters("http://collector:4318") == []
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    assert span_exporters("http://collector:4318") == []
    assert "OTEL_TRACES_EXPORTER names 'zipkin'" in caplog.text


def test_the_setting_goes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_collector() as wanted, http_collector() as other:
        monkeypatch.setenv(ENDPOINT, other.url)
        serve_once(settings(otlp_endpoint=wanted.url))
        assert wanted.named("POST /v1/embeddings")
        assert not other.headers


def test_the_variables_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_collector() as collector:
        monkeypatch.setenv(ENDPOINT, collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20planted")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "by-variable")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
        serve_once(settings())
        assert collector.resource["service.name"] == "by-variable"
        assert collector.resource["deployment.environment.name"] == "test"
        assert {headers["authorization"] for headers in collector.headers} == {"Bearer planted"}
        assert not collector.metrics
        serve_once(settings(name="by-setting"))
        assert collector.resource["service.name"] == "by-setting"


def test_exemplars_name_the_trace_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_collector() as collector:
        serve_once(settings(otlp_endpoint=collector.url))
        assert not exemplars(collector)
    monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", "trace_based")
    with http_collector() as collector:
        serve_once(settings(otlp_endpoint=collector.url))
        found = exemplars(collector)
        assert found <= {span.trace_id for span in collector.named("POST /v1/embeddings")}
        assert found


def exemplars(collector: Collector) -> set[bytes]:
    points = collector.last_metrics["http.server.request.duration"].histogram.data_points
    posted = [p for p in points if attributes(p.attributes)["http.request.method"] == "POST"]
    return {exemplar.trace_id for point in posted for exemplar in point.exemplars}


@pytest.fixture(params=["absent", "silent"])
def unwilling(request: pytest.FixtureRequest) -> Iterator[str]:
    """A collector that is not there, or that takes what it is sent and says nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if request.param == "silent":
            taken.listen(64)
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize(
    "protocol", ["grpc", pytest.param("http/protobuf", marks=pytest.mark.slow)]
)
def test_an_unwilling_collector_holds_up_nothing(unwilling: str, protocol: str) -> None:
    secret = "planted-secret"
    environment = {
        "APPLIANCE_OTLP_ENDPOINT": unwilling,
        PROTOCOL: protocol,
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{secret}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "3600",
        "OTEL_METRIC_EXPORT_TIMEOUT": "3600000",
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with run_process(environment=environment, code=SERVE_FAKE, fresh=True) as server:
        assert httpx.get(f"{server.url}/metrics").status_code == 200
        for _ in range(3):
            assert server.embed(model=MODEL, input="a").status_code == 200
        assert server.process is not None
        server.process.terminate()
        assert server.process.wait(120) == 0
    told = [line for line in server.log if "telemetry: " in line]
    assert len([line for line in told if "is lost" in line]) == 1
    assert len(told) <= 2
    assert not any("Traceback" in line for line in server.log)
    assert secret not in "".join(server.log)


def test_a_collector_that_is_down_costs_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        environment = {
            "APPLIANCE_OTLP_ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
        }
        with run_process(environment=environment, code=SERVE_FAKE, fresh=True) as server:
            assert httpx.get(f"{server.url}/metrics").status_code == 200
            while not (told := [line for line in server.log if "telemetry: " in line]):
                assert server.embed(model=MODEL, input="a").status_code == 200
    told = [line for line in server.log if "telemetry: " in line and "is lost" not in line]
    assert len(told) == 1
    assert not any("Traceback" in line for line in server.log)


def test_what_exporters_say_is_told_seldom_and_without_passwords(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Seldom()
    error = ConnectionError("http://me:planted@host:1 is\nnot there")
    fault = (ConnectionError, error, None)
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "no spans sent:", (), fault)
    for _ in range(3):
        handler.handle(record)
    monkeypatch.setattr(exporting, "LOG_SECONDS", 0.0)
    handler.handle(record)
    told = "telemetry: no spans sent: http://***@host:1 is not there"
    assert [each.getMessage() for each in caplog.records] == [
        told,
        f"{told} (2 more such lines since the last)",
    ]
    assert not any(each.exc_info for each in caplog.records)


@pytest.mark.parametrize(
    "endpoint", ["collector:4318", "ftp://collector", "http://me:secret@collector:4318", "http://"]
)
def test_a_bad_endpoint_stops_the_start(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="it must be a URL such as"):
        Settings(otlp_endpoint=endpoint)
