# SPDX-License-Identifier: Apache-2.0
"""The same happenings by the names that text-embeddings-inference gives them."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from appliance.engine.jobs import Batch
from appliance.engine.types import Scores, Timings
from appliance.settings import ModelSettings, Settings
from appliance.telemetry.notes import HttpExchange, RequestNotes
from appliance.telemetry.tei_metrics import TeiMetrics
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import FakeBackend, loading

README = Path(__file__).parents[2] / "README.md"
MODEL = "fake/model"
SETTINGS = Settings(models=(ModelSettings(model=MODEL, max_client_batch_size=4),), te_metrics=True)
DURATIONS = ("duration", "tokenization_duration", "queue_duration", "inference_duration")


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with run_in_thread(SETTINGS) as started:
        httpx.get(f"{started.url}/metrics")  # it counts from then on
        yield started


def told(server: RunningServer) -> str:
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.status_code == 200, answer.text
    return answer.text


def scrape(text: str) -> dict[str, Metric]:
    return {
        family.name: family
        for family in text_string_to_metric_families(text)
        if family.name.startswith("te_")
    }


def values(text: str, name: str) -> dict[str, float]:
    """A counter's or gauge's values by their one label's value, as its lines have them."""
    found = re.findall(rf'^{name}(?:{{\w+="(\w+)"}})? (\S+)$', text, re.MULTILINE)
    return {label: float(value) for label, value in found}


def value(text: str, name: str) -> float:
    [found] = values(text, name).values()
    return found


def test_a_request_and_its_inputs_are_counted(server: RunningServer) -> None:
    assert server.embed(model=MODEL, input=["one two", "three"]).status_code == 200
    assert server.embed(model=MODEL, input="four").status_code == 200
    text = told(server)
    assert values(text, "te_request_count") == {"single": 1, "batch": 1}
    assert values(text, "te_request_success") == {"single": 1, "batch": 1}
    assert value(text, "te_embed_count") == value(text, "te_embed_success") == 3
    assert value(text, "te_predict_count") == value(text, "te_predict_success") == 0
    for part in DURATIONS:
        assert value(text, f"te_request_{part}_count") == 2
        assert value(text, f"te_embed_{part}_count") == 3
        assert value(text, f"te_predict_{part}_count") == 0
    assert value(text, "te_request_duration_sum") > 0
    assert value(text, "te_request_input_length_count") == 3
    assert value(text, "te_request_input_length_sum") == 4 + 3 + 3
    assert value(text, "te_batch_next_size_sum") == 3
    assert value(text, "te_batch_next_tokens_sum") == 4 + 3 + 3
    assert not any(values(text, "te_request_failure").values())


@pytest.mark.parametrize(
    ("body", "failure", "method"),
    [
        ({"input": "word " * 50}, "tokenization", "single"),
        ({"input": ["a"] * 5}, "batch_size", "batch"),
        ({"input": ["a", ""]}, "validation", "batch"),
        ({"input": ["a"], "prompt_name": "none such"}, "validation", "batch"),
    ],
)
def test_a_failure_is_counted_by_its_kind(
    body: dict[str, object], failure: str, method: str, server: RunningServer
) -> None:
    assert server.embed(model=MODEL, **body).status_code == 400
    text = told(server)
    failures = values(text, "te_request_failure")
    assert {name: count for name, count in failures.items() if count} == {failure: 1}
    assert values(text, "te_request_count")[method] == 1
    assert not any(values(text, "te_request_success").values())
    assert value(text, "te_embed_count") == (1 if failure == "tokenization" else 0)
    assert value(text, "te_embed_success") == 0


def test_what_no_request_for_embeddings_is_is_not_counted(server: RunningServer) -> None:
    httpx.get(f"{server.url}/v1/models")
    httpx.post(f"{server.url}/v1/embeddings", content=b"{")
    text = told(server)
    assert not any(values(text, "te_request_count").values())
    assert not any(values(text, "te_request_failure").values())


def test_a_full_waiting_room_and_a_broken_model_are_told_apart() -> None:
    def broken(_: Batch) -> None:
        raise RuntimeError("it broke")

    settings = Settings(
        models=(
            ModelSettings(model="full", max_concurrent_requests=1),
            ModelSettings(model="broken"),
        ),
        te_metrics=True,
    )
    with run_in_thread(
        settings,
        loading(
            lambda model: FakeBackend(before_forward=broken if model.name == "broken" else None)
        ),
    ) as server:
        told(server)
        assert server.engine is not None
        server.engine.models[0].requests = 1
        assert server.embed(model="full", input="a").status_code == 429
        server.engine.models[0].requests = 0
        assert server.embed(model="broken", input="a").status_code == 500
        failures = values(told(server), "te_request_failure")
    assert {name: count for name, count in failures.items() if count} == {
        "overloaded": 1,
        "inference": 1,
    }


def test_the_queue_is_counted_in_texts() -> None:
    held, taken = threading.Event(), threading.Event()

    def hold(_: Batch) -> None:
        taken.set()
        held.wait(30)

    settings = Settings(models=(ModelSettings(model=MODEL),), te_metrics=True, cpu_workers=1)
    make = loading(lambda _: FakeBackend(before_forward=hold))
    with run_in_thread(settings, make) as server:
        assert value(told(server), "te_queue_size") == 0
        first = threading.Thread(target=lambda: server.embed(model=MODEL, input="a"))
        second = threading.Thread(target=lambda: server.embed(model=MODEL, input=["b"] * 3))
        first.start()
        assert taken.wait(30)
        second.start()
        waiting = 0.0
        for _ in range(300):
            if waiting := value(told(server), "te_queue_size"):
                break
        held.set()
        first.join(30)
        second.join(30)
        assert waiting == 3
        assert value(told(server), "te_queue_size") == 0


def test_kinds_and_buckets_are_those_of_tei(server: RunningServer) -> None:
    server.embed(model=MODEL, input="a")
    text = told(server)
    kinds = dict(re.findall(r"^# TYPE (te_\w+) (\w+)$", text, re.MULTILINE))
    counters = ("request_count", "request_success", "request_failure")
    counters += ("embed_count", "embed_success", "predict_count", "predict_success")
    histograms = [
        f"{what}_{part}" for what in ("request", "embed", "predict") for part in DURATIONS
    ]
    histograms += ["request_input_length", "batch_next_size", "batch_next_tokens"]
    assert kinds == {
        **{f"te_{name}": "counter" for name in counters},
        **{f"te_{name}": "histogram" for name in histograms},
        "te_queue_size": "gauge",
    }
    found = {
        name: [sample.labels["le"] for sample in metric.samples if "le" in sample.labels]
        for name, metric in scrape(text).items()
    }
    seconds = found["te_request_duration"]
    assert len(seconds) == 36
    assert seconds[0] == "0.000015000000000000002"
    assert [float(bound) for bound in seconds[:-1]] == pytest.approx(
        [1e-5 * 1.5**power for power in range(1, 36)]
    )
    for name, powers in (("request_input_length", 20), ("batch_next_size", 13)):
        assert found[f"te_{name}"] == [*(str(2**power) for power in range(powers)), "+Inf"]
    assert found["te_batch_next_tokens"][-2] == str(2**20)


def test_a_value_on_a_bound_is_within_it(server: RunningServer) -> None:
    server.embed(model=MODEL, input="one two")  # of four tokens
    lines = told(server)
    assert 'te_request_input_length_bucket{le="2"} 0\n' in lines
    assert 'te_request_input_length_bucket{le="4"} 1\n' in lines
    assert 'te_request_input_length_bucket{le="+Inf"} 1\n' in lines


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_no_error(server: RunningServer) -> None:
    server.embed(model=MODEL, input=["a", "b"])
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=told(server).encode(), capture_output=True
    )
    # 3: read without an error, with remarks on names that TEI has chosen.
    assert done.returncode in (0, 3), done.stderr
    assert b"error" not in done.stderr.lower()


def test_they_are_there_only_if_asked_for() -> None:
    with run_in_thread() as server:
        server.embed(model=MODEL, input="a")
        assert "te_" not in re.findall(r"^# TYPE (\w\w_)", told(server), re.MULTILINE)


@pytest.mark.parametrize(
    ("notes", "route", "method"),
    [
        (RequestNotes(inputs=1, is_single=True), "/predict", "single"),
        (RequestNotes(inputs=3), "/rerank", "batch"),
    ],
)
def test_scores_are_counted_once_with_their_success(
    notes: RequestNotes, route: str, method: str
) -> None:
    metrics = TeiMetrics(lambda: 0)
    exchange = HttpExchange("POST", "http", route, 200, 0.25, 10, 10)
    assert notes.inputs is not None
    rows = np.zeros((notes.inputs, 2), dtype=np.float32)
    notes.result = Scores(rows, ("no", "yes"), 12, Timings(0.01, 0.02, 0.03))
    notes.ask(MODEL)
    metrics.exchanged(exchange, notes)
    text = metrics.text().decode()
    assert values(text, "te_request_count")[method] == 1
    assert values(text, "te_request_success")[method] == 1
    assert value(text, "te_predict_count") == value(text, "te_predict_success") == notes.inputs
    assert value(text, "te_predict_inference_duration_sum") == pytest.approx(0.03 * notes.inputs)
    assert value(text, "te_embed_count") == 0


def test_routes_that_score_are_counted_once_as_well() -> None:
    settings = Settings(
        models=(ModelSettings(model="reranker"), ModelSettings(model=MODEL)), te_metrics=True
    )

    def make(model: ModelSettings) -> FakeBackend:
        return FakeBackend(kind="reranker" if model.name == "reranker" else "embedding")

    with run_in_thread(settings, loading(make)) as server:
        told(server)
        for path, body, status in (
            ("/predict", {"inputs": "one"}, 200),
            ("/predict", {"inputs": [["one"], ["two"], ["three"]]}, 200),
            ("/rerank", {"query": "a", "texts": ["b", "c"]}, 200),
            ("/embed", {"inputs": "one"}, 424),
            (f"/{MODEL}/rerank", {"query": "a", "texts": ["b"]}, 424),
            (f"/{MODEL}/embed", {"inputs": ["one"]}, 200),
        ):
            answer = httpx.post(f"{server.url}{path}", json=body, timeout=60)
            assert answer.status_code == status, answer.text
        text = told(server)
    assert values(text, "te_request_success") == {"single": 1, "batch": 3}
    assert values(text, "te_request_count") == {"single": 2, "batch": 4}
    assert value(text, "te_predict_count") == value(text, "te_predict_success") == 1 + 3 + 2
    assert value(text, "te_embed_count") == value(text, "te_embed_success") == 1
    assert values(text, "te_request_failure")["model_type"] == 2


def test_the_readme_names_them_all(server: RunningServer) -> None:
    table = README.read_text(encoding="utf-8").partition("\n### Metrics\n")[2]
    named: set[str] = set()
    for row in re.findall(r"^\| (`te_.*?) \|", table.partition("\n## ")[0], re.MULTILINE):
        named |= set(re.findall(r"te_\w+", row))
    found = set(re.findall(r"^# TYPE (te_\w+) ", told(server), re.MULTILINE))
    assert named == found
