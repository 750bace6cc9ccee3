# SPDX-License-Identifier: Apache-2.0
"""What ``/metrics`` and a collector are told in numbers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from appliance.errors import InternalError
from appliance.settings import ModelSettings, Settings
from appliance.telemetry.instruments import ModelNames
from tests.api.access import KEY, ask, guarded, secret
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import FakeBackend, load_fake, loading
from tests.telemetry.collector import attributes, http_collector

MODEL = "fake/model"
OF_MODEL = {"model": MODEL}
POSTED = {
    "http_request_method": "POST",
    "http_route": "/v1/embeddings",
    "url_scheme": "http",
    "http_response_status_code": "200",
}
GEN_AI = {
    "gen_ai_operation_name": "embeddings",
    "gen_ai_provider_name": "embeddings-appliance",
    "gen_ai_request_model": MODEL,
}

HTTP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""As the semantic conventions have them, and so the next two."""
GEN_AI_SECONDS = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64),
    *(1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
GEN_AI_TOKENS = (
    *(1, 4, 16, 64, 256, 1024, 4096, 16384, 65536),
    *(262144, 1048576, 4194304, 16777216, 67108864),
)


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with run_in_thread() as started:
        yield started


def scrape(server: RunningServer) -> dict[str, Metric]:
    """All metrics by name, as Prometheus reads them."""
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def value(metric: Metric, labels: Mapping[str, str], suffix: str = "") -> float:
    """The one value with these labels and perhaps more."""
    [found] = [
        sample.value
        for sample in metric.samples
        if sample.name == metric.name + suffix and labels.items() <= sample.labels.items()
    ]
    return found


def bounds(metric: Metric) -> tuple[float, ...]:
    """Bounds of a histogram's buckets, the last one left out."""
    found = {float(sample.labels["le"]) for sample in metric.samples if "le" in sample.labels}
    return tuple(sorted(found))[:-1]


def test_a_request_is_counted_once_everywhere(server: RunningServer) -> None:
    scrape(server)
    body = {"model": MODEL, "input": ["one two", "three"]}
    answer = httpx.post(f"{server.url}/v1/embeddings", json=body)
    seen = scrape(server)
    assert value(seen["http_server_request_duration_seconds"], POSTED, "_count") == 1
    sent = len(answer.request.content)
    assert value(seen["http_server_request_body_size_bytes"], POSTED, "_sum") == sent
    received = len(answer.content)
    assert value(seen["http_server_response_body_size_bytes"], POSTED, "_sum") == received
    assert value(seen["gen_ai_server_request_duration_seconds"], GEN_AI, "_count") == 1
    tokens = seen["gen_ai_client_token_usage"]
    assert value(tokens, {**GEN_AI, "gen_ai_token_type": "input"}, "_sum") == 4 + 3
    for stage in ("tokenize", "queue"):
        assert value(seen[f"appliance_{stage}_duration_seconds"], OF_MODEL, "_count") == 1
    on_cpu = {**OF_MODEL, "device": "cpu"}
    assert value(seen["appliance_batch_tokens"], on_cpu, "_sum") == 4 + 3
    assert value(seen["appliance_batch_texts"], on_cpu, "_sum") == 2
    batches = value(seen["appliance_batch_duration_seconds"], on_cpu, "_count")
    assert batches == value(seen["appliance_batch_texts"], on_cpu, "_count")


def test_buckets_are_those_of_the_conventions(server: RunningServer) -> None:
    scrape(server)
    server.embed(model=MODEL, input="a")
    seen = scrape(server)
    assert bounds(seen["http_server_request_duration_seconds"]) == HTTP_SECONDS
    assert bounds(seen["gen_ai_server_request_duration_seconds"]) == GEN_AI_SECONDS
    assert bounds(seen["gen_ai_client_token_usage"]) == GEN_AI_TOKENS


def test_models_and_their_states_are_told(server: RunningServer) -> None:
    seen = scrape(server)
    states = {
        sample.labels["state"]: sample.value for sample in seen["appliance_model_state"].samples
    }
    assert states == {
        **dict.fromkeys(("unloaded", "loading", "active", "offloaded", "swapped", "failed"), 0),
        "idle": 1,
    }
    assert value(seen["appliance_queue_tokens"], OF_MODEL) == 0
    assert value(seen["appliance_queue_requests"], OF_MODEL) == 0
    assert value(seen["appliance_swaps"], {"from": "none", "to": "device"}, "_total") == 1
    assert value(seen["appliance_device_memory_limit_bytes"], {"device": "cpu"}) > 0
    assert value(seen["process_memory_usage_bytes"], {}) > 2**20
    assert value(seen["system_cpu_time_seconds"], {"state": "user"}, "_total") > 0
    assert seen["system_cpu_time_seconds"].samples[0].labels.keys() == {"state"}
    assert value(seen["process_uptime_seconds"], {}) > 0


def test_memory_and_moves_have_their_bytes() -> None:
    def make(_: ModelSettings) -> FakeBackend:
        return FakeBackend(sizes={"cpu": 1000})

    settings = Settings(models=(ModelSettings(model=MODEL),), max_cuda_memory_gib=1)
    with run_in_thread(settings, loading(make, {"cpu": 1000})) as server:
        seen = scrape(server)
    assert value(seen["appliance_model_memory_bytes"], {**OF_MODEL, "tier": "device"}) == 1000
    assert value(seen["appliance_device_memory_limit_bytes"], {"device": "cpu"}) == 2**30
    assert value(seen["appliance_device_memory_usage_bytes"], {"device": "cpu"}) == 1000
    loads = {"from": "none", "to": "device"}
    assert value(seen["appliance_swap_io_bytes"], loads, "_total") == 1000


def test_what_the_engine_counts_is_told() -> None:
    def make(_: ModelSettings) -> FakeBackend:
        backend = FakeBackend()
        backend.fidelity = 0.987  # type: ignore[attr-defined]
        return backend

    with run_in_thread(load=loading(make)) as server:
        assert server.engine is not None
        lane = server.engine.models[0].lane
        assert lane is not None
        for place in lane.places.values():
            assert place.executor is not None
            place.executor.recomputed, place.executor.overflows = 3, 2
        seen = scrape(server)
    assert value(seen["appliance_model_fidelity"], OF_MODEL) == 0.987
    assert value(seen["appliance_texts_recomputed"], OF_MODEL, "_total") == 3
    assert value(seen["appliance_batches_split"], OF_MODEL, "_total") == 2


def test_refusals_are_counted_by_their_bound() -> None:
    models = (ModelSettings(model=MODEL, max_concurrent_requests=1),)
    with run_in_thread(guarded(models=models)) as server:
        assert server.engine is not None
        metrics = ask(server, KEY, "GET", "/metrics").text
        assert 'appliance_requests_refused_total{reason="queue_full"} 0.0' in metrics
        server.engine.models[0].requests = 1
        body = {"model": MODEL, "input": "a"}
        assert ask(server, KEY, "POST", "/v1/embeddings", json=body).status_code == 429
        server.engine.models[0].requests = 0
        for _ in range(60):
            ask(server, "wrong", "GET", "/metrics")
        text = ask(server, KEY, "GET", "/metrics").text
    seen = {family.name: family for family in text_string_to_metric_families(text)}
    refused = seen["appliance_requests_refused"]
    assert value(refused, {"reason": "too_many_requests"}, "_total") == 1
    assert value(refused, {"reason": "bad_keys"}, "_total") > 0
    failed = {**GEN_AI, "error_type": "Overloaded"}
    assert value(seen["gen_ai_server_request_duration_seconds"], failed, "_count") == 1


def test_faults_have_their_type() -> None:
    def fail(_: object) -> None:
        raise ValueError("broken")

    with run_in_thread(load=loading(lambda _: FakeBackend(before_forward=fail))) as server:
        scrape(server)
        assert server.embed(model=MODEL, input="a").status_code == InternalError.status
        seen = scrape(server)
    failed = {**POSTED, "http_response_status_code": "500", "error_type": "500"}
    assert value(seen["http_server_request_duration_seconds"], failed, "_count") == 1
    failed = {**GEN_AI, "error_type": "InternalError"}
    assert value(seen["gen_ai_server_request_duration_seconds"], failed, "_count") == 1


def series(server: RunningServer) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in scrape(server).values()
        for sample in family.samples
    }


def test_strangers_make_no_series(server: RunningServer) -> None:
    def stray(client: httpx.Client, number: int) -> None:
        client.post("/v1/embeddings", json={"model": f"unknown-{number}", "input": "a"})
        if number > 1 and number % 10:  # the rest is alike, and a test may not take all day
            return
        client.post(f"/org/unknown-{number}/v1/embeddings", json={"input": "a"})
        client.get(f"/no/such/page/{number}")
        client.get(f"/v1/models/unknown-{number}")
        client.request("REPORT" if number % 20 else "MKCALENDAR", "/health")
        client.request("PUT", f"/health?{number}")

    with httpx.Client(base_url=server.url) as client:
        for number in range(2):
            stray(client, number)
        scrape(server)
        before = series(server)
        for number in range(2, 1000):
            stray(client, number)
        assert series(server) == before
    assert not [labels for _, labels in before if "unknown" in str(labels)]


def test_removed_models_leave_no_state_behind(server: RunningServer) -> None:
    scrape(server)
    for number in range(3):
        added = httpx.post(f"{server.url}/api/models", json={"model": f"passing-{number}"})
        assert added.status_code in (200, 201, 202), added.text
        server.embed(model=f"passing-{number}", input="a")
        httpx.delete(f"{server.url}/api/models/passing-{number}")
    states = scrape(server)["appliance_model_state"]
    assert {sample.labels["model"] for sample in states.samples} == {MODEL}


def test_very_many_models_share_a_name() -> None:
    names = ModelNames(most=2)
    assert [names(name) for name in ("a", "b", "c", "a", "d")] == [
        "a",
        "b",
        "_OTHER",
        "a",
        "_OTHER",
    ]


def test_metrics_ask_for_the_scope_admin() -> None:
    with run_in_thread(guarded()) as server:
        assert ask(server, None, "GET", "/metrics").status_code == 401
        assert ask(server, KEY, "GET", "/metrics").status_code == 200


def test_a_key_for_embeddings_reads_no_metrics(tmp_path: object) -> None:
    with run_in_thread(guarded(tmp_path)) as server:  # type: ignore[arg-type]
        key = secret(server, scopes=["embed"])
        assert ask(server, key, "GET", "/metrics").status_code == 403


def test_metrics_can_be_public() -> None:
    with run_in_thread(guarded(public_metrics=True)) as server:
        assert ask(server, None, "GET", "/metrics").status_code == 200
        assert ask(server, None, "GET", "/api/status").status_code == 401


def test_all_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with http_collector() as collector:
        settings = Settings(models=(ModelSettings(model=MODEL),), otlp_endpoint=collector.url)
        with run_in_thread(settings) as server:
            assert server.embed(model=MODEL, input="a").status_code == 200
            answer = httpx.get(f"{server.url}/metrics")
        assert answer.status_code == 404
        assert "OTEL_SDK_DISABLED" in answer.json()["error"]["message"]
        assert not collector.headers


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_no_fault(server: RunningServer) -> None:
    server.embed(model=MODEL, input="a")
    text = httpx.get(f"{server.url}/metrics").text
    result = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True
    )
    complaints = result.stderr.splitlines()
    # The names of OpenTelemetry's conventions for two gauges end in what is kept for histograms.
    assert [line.partition(" ")[0] for line in complaints] == [
        "process_open_file_descriptor_count",
        "process_thread_count",
    ]


def test_a_collector_is_sent_the_same() -> None:
    with http_collector() as collector:
        settings = Settings(models=(ModelSettings(model=MODEL),), otlp_endpoint=collector.url)
        with run_in_thread(settings, load_fake) as server:
            scrape(server)
            server.embed(model=MODEL, input="one two")
        seen = collector.last_metrics
    usage = seen["gen_ai.client.token.usage"]
    assert usage.unit == "{token}"
    [point] = usage.histogram.data_points
    assert (point.count, point.sum) == (1, 4)
    assert tuple(point.explicit_bounds) == GEN_AI_TOKENS
    assert attributes(point.attributes) == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "embeddings-appliance",
        "gen_ai.request.model": MODEL,
        "gen_ai.token.type": "input",
    }
    units = {
        "http.server.request.duration": "s",
        "http.server.active_requests": "{request}",
        "http.server.request.body.size": "By",
        "http.server.response.body.size": "By",
        "gen_ai.server.request.duration": "s",
        "appliance.queue.tokens": "{token}",
        "appliance.batch.duration": "s",
        "appliance.model.memory": "By",
        "process.memory.usage": "By",
        "process.cpu.time": "s",
    }
    assert {name: seen[name].unit for name in units} == units
