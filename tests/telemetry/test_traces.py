# SPDX-License-Identifier: Apache-2.0
"""What a collector is sent of requests, batches and loads."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.trace import get_current_span

from appliance.errors import InternalError
from appliance.settings import ModelSettings, Settings
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import FakeBackend, loading
from tests.telemetry.collector import Collector, attributes, grpc_collector, http_collector

MODEL = "fake/model"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = ("tokenize", "queue", "forward", "encode")


def settings(collector: Collector | None = None, **more: object) -> Settings:
    endpoint = {} if collector is None else {"otlp_endpoint": collector.url}
    return Settings.model_validate({"models": (ModelSettings(model=MODEL),), **endpoint, **more})


@pytest.fixture
def collector() -> Iterator[Collector]:
    with http_collector() as started:
        yield started


def until_ready(server: RunningServer) -> None:
    """Telemetry is put together beside the first requests: ``/metrics`` waits for it."""
    assert httpx.get(f"{server.url}/metrics").status_code == 200


def embed(server: RunningServer, text: str = "one two", **headers: str) -> httpx.Response:
    body = {"model": MODEL, "input": text, "encoding_format": "base64"}
    return httpx.post(f"{server.url}/v1/embeddings", json=body, headers=headers)


def one_request(collector: Collector) -> tuple[Span, Span]:
    """The spans of a request and of its work in the engine."""
    [request] = collector.named("POST /v1/embeddings")
    [work] = collector.named(f"embeddings {MODEL}")
    return request, work


def test_a_request_is_one_tree_of_spans(collector: Collector) -> None:
    with run_in_thread(settings(collector, name="north", project="search")) as server:
        until_ready(server)
        assert server.engine is not None
        session = server.engine.session_id
        assert embed(server).status_code == 200
    request, work = one_request(collector)
    stages = [collector.named(name)[0] for name in STAGES]
    assert not request.parent_span_id
    assert request.kind == Span.SPAN_KIND_SERVER
    assert work.parent_span_id == request.span_id
    assert {stage.parent_span_id for stage in stages} == {work.span_id}
    assert len({span.trace_id for span in (request, work, *stages)}) == 1
    edges = [edge for s in stages for edge in (s.start_time_unix_nano, s.end_time_unix_nano)]
    assert edges == sorted(edges)
    assert work.start_time_unix_nano <= edges[0]
    assert edges[-1] <= work.end_time_unix_nano == request.end_time_unix_nano
    assert attributes(request.attributes) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/embeddings",
        "network.protocol.version": "1.1",
        "url.path": "/v1/embeddings",
        "url.scheme": "http",
    }
    assert attributes(work.attributes) == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "embeddings-appliance",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.encoding_formats": ["base64"],
        "gen_ai.embeddings.dimension.count": 8,
        "gen_ai.usage.input_tokens": 4,
    }
    resource = collector.resource
    assert resource["service.name"] == "north"
    assert resource["service.namespace"] == "search"
    assert resource["service.instance.id"] == session


def test_sparse_vectors_are_told_of_as_others_are_but_for_a_length(collector: Collector) -> None:
    load = loading(lambda _: FakeBackend(kind="sparse"))
    with run_in_thread(settings(collector), load) as server:
        until_ready(server)
        answer = httpx.post(f"{server.url}/embed_sparse", json={"inputs": "one two"})
        assert answer.status_code == 200
        assert server.engine is not None
        assert (server.engine.models[0].answered, server.engine.models[0].tokens) == (1, 4)
    [work] = collector.named(f"embeddings {MODEL}")
    told = attributes(work.attributes)
    assert told["gen_ai.usage.input_tokens"] == 4
    assert "gen_ai.embeddings.dimension.count" not in told
    assert {stage.parent_span_id for name in STAGES for stage in collector.named(name)} == {
        work.span_id
    }


def test_a_batch_names_the_requests_that_it_served(collector: Collector) -> None:
    with run_in_thread(settings(collector)) as server:
        until_ready(server)
        embed(server)
    request, _ = one_request(collector)
    [batch] = collector.named(f"batch {MODEL}")
    assert [(link.trace_id, link.span_id) for link in batch.links] == [
        (request.trace_id, request.span_id)
    ]
    assert batch.trace_id != request.trace_id
    assert attributes(batch.attributes) == {
        "gen_ai.request.model": MODEL,
        "appliance.device": "cpu",
        "appliance.batch.texts": 1,
        "appliance.batch.tokens": 4,
    }
    [forward] = collector.named("forward")
    assert batch.start_time_unix_nano <= forward.start_time_unix_nano
    assert forward.end_time_unix_nano <= batch.end_time_unix_nano


def test_loads_and_moves_are_spans(collector: Collector) -> None:
    models = (ModelSettings(model=MODEL), ModelSettings(model="later", eager=False))
    with run_in_thread(settings(collector, models=models)) as server:
        until_ready(server)
        httpx.post(f"{server.url}/v1/embeddings", json={"model": "later", "input": "a"})
    [load] = collector.named("load later")
    [move] = collector.named("move later")
    assert attributes(move.attributes) == {
        "gen_ai.request.model": "later",
        "appliance.move.from": "source",
        "appliance.move.to": "device",
        "appliance.move.bytes": 0,
    }
    assert load.start_time_unix_nano <= move.start_time_unix_nano
    assert move.end_time_unix_nano <= load.end_time_unix_nano


def test_a_failed_load_is_an_error(collector: Collector) -> None:
    def load(model: ModelSettings) -> FakeBackend:
        if model.name == "broken":
            raise ValueError("no weights")
        return FakeBackend()

    models = (ModelSettings(model=MODEL), ModelSettings(model="broken", eager=False))
    with run_in_thread(settings(collector, models=models), loading(load)) as server:
        until_ready(server)
        httpx.post(f"{server.url}/v1/embeddings", json={"model": "broken", "input": "a"})
    for name in ("load broken", "move broken"):
        [span] = collector.named(name)
        assert span.status.code == Status.STATUS_CODE_ERROR
        assert "no weights" in span.status.message
    [work] = collector.named("embeddings broken")
    assert attributes(work.attributes)["error.type"] == "ModelUnavailable"


def test_the_clients_trace_goes_on(collector: Collector) -> None:
    with run_in_thread(settings(collector)) as server:
        until_ready(server)
        embed(server, traceparent=f"00-{TRACE}-{PARENT}-01")
    request, work = one_request(collector)
    assert request.trace_id.hex() == work.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == PARENT


def test_log_lines_name_the_trace(collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []

    def filter_(record: logging.LogRecord) -> bool:
        seen.append(get_current_span().get_span_context().trace_id)
        return True

    caplog.set_level(logging.DEBUG, "appliance.context")
    logger = logging.getLogger("appliance.context")
    logger.addFilter(filter_)
    try:
        with run_in_thread(settings(collector)) as server:
            until_ready(server)
            embed(server, traceparent=f"00-{TRACE}-{PARENT}-01")
    finally:
        logger.removeFilter(filter_)
    assert seen[-1] == int(TRACE, 16)


def test_what_a_client_does_not_sample_is_not_sent(collector: Collector) -> None:
    with run_in_thread(settings(collector)) as server:
        until_ready(server)
        embed(server, traceparent=f"00-{TRACE}-{PARENT}-00")
        embed(server, "three words more", traceparent="no trace at all")
    [request] = collector.named("POST /v1/embeddings")
    assert request.trace_id.hex() != TRACE
    assert len(collector.named(f"batch {MODEL}")) == 1


def test_sampling_can_be_off(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with run_in_thread(settings(collector)) as server:
        until_ready(server)
        embed(server)
    assert not collector.traces
    assert collector.metrics


def test_a_batch_is_told_of_whatever_share_is_sampled(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    with run_in_thread(settings(collector)) as server:
        until_ready(server)
        embed(server)
        embed(server, "three words more", traceparent=f"00-{TRACE}-{PARENT}-01")
    assert len(collector.named("POST /v1/embeddings")) == 1
    assert len(collector.named(f"batch {MODEL}")) == 1


def test_refusals_and_faults_have_their_type(collector: Collector) -> None:
    def fail(_: object) -> None:
        raise ValueError("broken")

    with run_in_thread(
        settings(collector), loading(lambda _: FakeBackend(before_forward=fail))
    ) as server:
        until_ready(server)
        assert embed(server).status_code == InternalError.status
        httpx.post(f"{server.url}/v1/embeddings", json={"model": "absent", "input": "a"})
    failed, refused = collector.named("POST /v1/embeddings")
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert attributes(failed.attributes)["error.type"] == "InternalError"
    [work] = collector.named(f"embeddings {MODEL}")
    assert work.status.code == Status.STATUS_CODE_ERROR
    assert attributes(work.attributes)["error.type"] == "InternalError"
    assert refused.status.code == Status.STATUS_CODE_UNSET
    assert attributes(refused.attributes)["error.type"] == "ModelNotFound"


def test_span_names_are_few(collector: Collector) -> None:
    with run_in_thread(settings(collector)) as server:
        until_ready(server)
        for number in range(3):
            httpx.get(f"{server.url}/no/such/{number}")
            httpx.get(f"{server.url}/v1/models/absent-{number}")
            httpx.request("REPORT", f"{server.url}/health?{number}")
    names = {span.name for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER}
    assert names - {"GET /health"} == {
        "GET",
        "GET /metrics",
        "GET /v1/models/{wanted}",
        "HTTP",
    }


def test_traces_go_by_grpc_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-secret=planted")
    with grpc_collector() as collector:
        with run_in_thread(settings(collector)) as server:
            until_ready(server)
            embed(server)
        request, _ = one_request(collector)
        assert attributes(request.attributes)["http.response.status_code"] == 200
        assert "gen_ai.server.request.duration" in collector.last_metrics
        assert {headers["x-secret"] for headers in collector.headers} == {"planted"}
