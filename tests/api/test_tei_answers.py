# SPDX-License-Identifier: Apache-2.0
"""What text-embeddings-inference's clients are answered with: shapes, to the byte, and headers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import appliance
from appliance.settings import ModelSettings, Settings
from tests.api.tei import MODELS, TellingBackend, post
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import loading, word_id

EAST, NORTH = word_id("east"), word_id("north")
HEADERS = {
    "x-compute-type",
    "x-compute-time",
    "x-compute-characters",
    "x-compute-tokens",
    "x-total-time",
    "x-tokenization-time",
    "x-queue-time",
    "x-inference-time",
}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with run_in_thread(Settings(models=MODELS), loading(TellingBackend)) as running:
        yield running


def told(server: RunningServer, path: str, **body: Any) -> str:
    answer = post(server, path, **body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.text


@pytest.mark.parametrize("place", ["", "/dense", "/team/dense"])
def test_embed(server: RunningServer, place: str) -> None:
    assert told(server, f"{place}/embed", inputs="east") == "[[1.0,0.0]]"
    assert told(server, f"{place}/embed", inputs=["east", "north"]) == "[[1.0,0.0],[0.0,1.0]]"
    assert told(server, f"{place}/embed", inputs=["north"], normalize=False) == "[[0.0,2.0]]"
    assert told(server, f"{place}/embed", inputs="west long", dimensions=1) == "[[-1.0]]"


def test_embed_takes_ids_of_the_models_own_as_they_are(server: RunningServer) -> None:
    start, end = 0, 1
    assert told(server, "/embed", inputs=[start, NORTH, end]) == "[[0.0,1.0]]"
    both = told(server, "/embed", inputs=[[start, NORTH, end], [start, EAST, end]])
    assert both == "[[0.0,1.0],[1.0,0.0]]"
    answer = post(server, "/embed", inputs=[start, NORTH, EAST, end])
    assert answer.headers["x-compute-tokens"] == "4"
    assert answer.headers["x-compute-characters"] == "4"


def test_numbers_are_float32_at_their_shortest(server: RunningServer) -> None:
    assert told(server, "/embed", inputs="east north long north") == "[[0.5070201,0.8619342]]"


def test_fields_that_are_not_known_are_ignored(server: RunningServer) -> None:
    assert told(server, "/embed", inputs="east", model="else", parameters=None) == "[[1.0,0.0]]"


@pytest.mark.parametrize(
    ("direction", "vector"),
    [
        ({}, [1.0, 0.0]),
        ({"truncation_direction": "right"}, [1.0, 0.0]),
        ({"truncation_direction": "Right", "truncate": None}, [1.0, 0.0]),
        ({"truncation_direction": "left"}, [0.0, 1.0]),
        ({"truncation_direction": "Left", "truncate": True}, [0.0, 1.0]),
    ],
)
def test_long_texts_are_cut_by_default(
    server: RunningServer, direction: dict[str, Any], vector: list[float]
) -> None:
    text = "east " * 30 + "north " * 30
    answer = post(server, "/embed", inputs=text, **direction)
    assert answer.json() == [vector]
    assert answer.headers["x-compute-tokens"] == "32"


def test_prompts_of_the_model_go_before_texts(server: RunningServer) -> None:
    prompted = post(server, "/embed", inputs="east", prompt_name="query")
    assert prompted.headers["x-compute-tokens"] == "4"
    assert prompted.headers["x-compute-characters"] == "4"  # what was sent


def test_embed_all(server: RunningServer) -> None:
    one = "[[1.0,-1.0],[2.0,0.0],[0.0,0.125]]"
    assert told(server, "/embed_all", inputs="east") == f"[{one}]"
    both = told(server, "/embed_all", inputs=["east", "north east"])
    assert both == f"[{one},[[1.0,-1.0],[0.0,2.0],[2.0,0.0],[0.0,0.125]]]"


def test_embed_sparse(server: RunningServer) -> None:
    one = '[{"index":5,"value":0.5},{"index":9,"value":2.25}]'
    assert told(server, "/sparse/embed_sparse", inputs="east") == f"[{one}]"
    both = told(server, "/sparse/embed_sparse", inputs=["east", "nothing"])
    assert both == f"[{one},[]]"


def test_similarity(server: RunningServer) -> None:
    inputs = {"source_sentence": "east", "sentences": ["east east", "north", "west"]}
    assert told(server, "/similarity", inputs=inputs) == "[1.0,0.0,-1.0]"
    parameters = {"truncate": True, "truncation_direction": "left", "prompt_name": "query"}
    assert told(server, "/similarity", inputs=inputs, parameters=parameters) == "[1.0,0.0,-1.0]"
    answer = post(server, "/similarity", inputs=inputs)
    assert answer.headers["x-compute-characters"] == str(len("easteast eastnorthwest"))


def test_predict(server: RunningServer) -> None:
    good = (
        '[{"score":2.0,"label":"positive"},{"score":0.5,"label":"neutral"},'
        '{"score":-2.0,"label":"negative"}]'
    )
    bad = (
        '[{"score":1.5,"label":"negative"},{"score":0.5,"label":"neutral"},'
        '{"score":-1.5,"label":"positive"}]'
    )

    def raw(inputs: Any) -> str:
        return told(server, "/classifier/predict", inputs=inputs, raw_scores=True)

    assert raw("good") == good
    assert raw(["good"]) == good  # one text
    assert raw(["a", "good"]) == good  # a flat list of two is a pair
    assert raw([["bad"]]) == f"[{bad}]"
    assert raw([["good"], ["bad"]]) == f"[{good},{bad}]"
    assert raw([["a", "bad"], ["a", "good"]]) == f"[{bad},{good}]"
    assert raw([["a", "bad"], ["good"], ["a", "good"], ["bad"]]) == f"[{bad},{good},{good},{bad}]"


def test_predictions_are_softmax_of_labels_and_sigmoid_of_one(server: RunningServer) -> None:
    several = post(server, "/classifier/predict", inputs="good").json()
    assert several == [
        {"score": pytest.approx(0.80551, rel=1e-4), "label": "positive"},
        {"score": pytest.approx(0.17973, rel=1e-4), "label": "neutral"},
        {"score": pytest.approx(0.014753, rel=1e-4), "label": "negative"},
    ]
    one = post(server, "/reranker/predict", inputs=["a", "good"]).json()
    assert one == [{"score": pytest.approx(0.880797), "label": "LABEL_0"}]


def test_rerank(server: RunningServer) -> None:
    asked = {"query": "what", "texts": ["bad", "good", "fair"]}
    assert told(server, "/reranker/rerank", **asked, raw_scores=True) == (
        '[{"index":1,"score":2.0},{"index":2,"score":0.0},{"index":0,"score":-1.5}]'
    )
    with_texts = told(server, "/reranker/rerank", **asked, raw_scores=True, return_text=True)
    assert with_texts == (
        '[{"index":1,"score":2.0,"text":"good"},{"index":2,"score":0.0,"text":"fair"},'
        '{"index":0,"score":-1.5,"text":"bad"}]'
    )
    scores = [rank["score"] for rank in post(server, "/reranker/rerank", **asked).json()]
    assert scores == [pytest.approx(0.880797), 0.5, pytest.approx(0.182426, rel=1e-5)]
    headers = post(server, "/reranker/rerank", **asked).headers
    assert headers["x-compute-characters"] == str(3 * len("what") + len("badgoodfair"))


def test_tokenize(server: RunningServer) -> None:
    start = {"id": 0, "text": "[START]", "special": True, "start": None, "stop": None}
    end = {"id": 1, "text": "[END]", "special": True, "start": None, "stop": None}
    east = {"id": EAST, "text": "east", "special": False, "start": 0, "stop": 4}
    north = {"id": NORTH, "text": "north", "special": False, "start": 5, "stop": 10}
    assert post(server, "/tokenize", inputs="east north").json() == [[start, east, north, end]]
    bare = post(server, "/tokenize", inputs=["east", "east north"], add_special_tokens=False)
    assert bare.json() == [[east], [east, north]]
    prompted = post(server, "/tokenize", inputs="east", prompt_name="query").json()
    assert [token["text"] for token in prompted[0]] == ["[START]", "find:", "east", "[END]"]


def test_decode(server: RunningServer) -> None:
    post(server, "/tokenize", inputs="east north")  # the fake tokenizer knows what it has seen
    assert told(server, "/decode", ids=[0, EAST, NORTH, 1]) == '["east north"]'
    assert told(server, "/decode", ids=[[EAST], [NORTH]]) == '["east","north"]'
    assert told(server, "/decode", ids=[0, EAST], skip_special_tokens=False) == '["[START] east"]'


def test_info(server: RunningServer) -> None:
    answer = httpx.get(f"{server.url}/info").json()
    assert answer.pop("tokenization_workers") >= 1
    assert answer == {
        "model_id": "team/dense",
        "model_sha": None,
        "model_dtype": "float32",
        "served_model_name": "team/dense",
        "model_type": {"embedding": {"pooling": "mean"}},
        "max_concurrent_requests": 512,
        "max_input_length": 32,
        "max_batch_tokens": 16384,
        "max_batch_requests": None,
        "max_client_batch_size": 2048,
        "auto_truncate": True,
        "version": appliance.__version__,
        "sha": None,
        "docker_label": None,
    }
    assert httpx.get(f"{server.url}/team/dense/info").json()["model_id"] == "team/dense"
    assert httpx.get(f"{server.url}/strict/info").json()["auto_truncate"] is False


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("sparse", {"embedding": {"pooling": "splade"}}),
        ("reranker", {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}),
        (
            "classifier",
            {
                "classifier": {
                    "id2label": {"0": "negative", "1": "neutral", "2": "positive"},
                    "label2id": {"negative": 0, "neutral": 1, "positive": 2},
                }
            },
        ),
    ],
)
def test_info_tells_the_kind(server: RunningServer, model: str, kind: dict[str, Any]) -> None:
    assert httpx.get(f"{server.url}/{model}/info").json()["model_type"] == kind


@pytest.mark.parametrize("path", ["/", "/invocations", "/team/dense/invocations"])
def test_invocations_of_an_embedding_model(server: RunningServer, path: str) -> None:
    assert told(server, path, inputs="east") == "[[1.0,0.0]]"
    inputs = {"source_sentence": "east", "sentences": ["west"]}
    assert told(server, path, inputs=inputs) == "[-1.0]"


def test_invocations_of_other_models(server: RunningServer) -> None:
    assert told(server, "/sparse/invocations", inputs="north") == '[[{"index":9,"value":1.0}]]'
    ranks = told(server, "/reranker/invocations", query="q", texts=["good"], raw_scores=True)
    assert ranks == '[{"index":0,"score":2.0}]'
    labels = post(server, "/classifier/invocations", inputs="good", raw_scores=True).json()
    assert [label["label"] for label in labels] == ["positive", "neutral", "negative"]


def test_the_address_alone_still_leads_readers_to_the_dashboard(server: RunningServer) -> None:
    answer = httpx.get(server.url)
    assert (answer.status_code, answer.headers["location"]) == (307, "dashboard")
    allowed = httpx.options(server.url).headers["allow"]
    assert set(allowed.split(", ")) == {"GET", "HEAD", "POST", "OPTIONS"}


def test_vertex(server: RunningServer) -> None:
    instances = [{"inputs": "east"}, {"inputs": ["north", "east"], "normalize": False}]
    assert told(server, "/vertex", instances=instances) == (
        '{"predictions":[[[1.0,0.0]],[[0.0,2.0],[2.0,0.0]]]}'
    )
    assert told(server, "/sparse/vertex", instances=[{"inputs": "north"}]) == (
        '{"predictions":[[[{"index":9,"value":1.0}]]]}'
    )
    instances = [
        {"query": "q", "texts": ["bad", "good"], "raw_scores": True},
        {"inputs": ["q", "fair"], "raw_scores": True},
    ]
    assert told(server, "/reranker/vertex", instances=instances) == (
        '{"predictions":[[{"index":1,"score":2.0},{"index":0,"score":-1.5}],'
        '[{"score":0.0,"label":"LABEL_0"}]]}'
    )


def test_more_instances_than_requests_may_wait_are_answered() -> None:
    models = (ModelSettings(model="m", max_concurrent_requests=40),)
    with run_in_thread(Settings(models=models), loading(TellingBackend)) as server:
        answer = post(server, "/vertex", instances=[{"inputs": "east"}] * 200)
        assert answer.json() == {"predictions": [[[1.0, 0.0]]] * 200}
        assert answer.headers["x-compute-tokens"] == "600"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", {"inputs": ["east", "north"]}),
        ("/embed_all", {"inputs": ["east", "north"]}),
        ("/sparse/embed_sparse", {"inputs": ["east", "north"]}),
        ("/similarity", {"inputs": {"source_sentence": "east", "sentences": ["north"]}}),
        ("/classifier/predict", {"inputs": [["east"], ["north"]]}),
        ("/", {"inputs": ["east", "north"]}),
    ],
)
def test_headers(server: RunningServer, path: str, body: dict[str, Any]) -> None:
    headers = post(server, path, **body).headers
    assert {name for name in headers if name in HEADERS} == HEADERS
    assert headers["x-compute-type"] == "cpu+optimized"
    assert headers["x-compute-characters"] == "9"
    assert headers["x-compute-tokens"] == "6"
    for name in HEADERS - {"x-compute-type"}:
        assert headers[name].isdigit()
    assert headers["server-timing"].startswith("tokenize;dur=")


def test_routes_that_compute_nothing_have_none_of_them(server: RunningServer) -> None:
    for answer in (
        httpx.get(f"{server.url}/info"),
        post(server, "/tokenize", inputs="east"),
        post(server, "/embed", inputs=[]),
    ):
        assert not HEADERS & set(answer.headers)


def test_large_answers_are_whole(server: RunningServer) -> None:
    texts = ["east", "north", "west"] * 600
    rows = post(server, "/embed", inputs=texts[:2048], normalize=False).json()
    assert rows == [[2.0, 0.0], [0.0, 2.0], [-3.0, 0.0]] * 600
    rows = post(server, "/embed_all", inputs=["east " * 30] * 300).json()
    assert rows == [[[1.0, -1.0], *[[2.0, 0.0]] * 30, [0.0, 0.125]]] * 300


def test_ping_tells_by_its_status_alone(server: RunningServer) -> None:
    answer = httpx.get(f"{server.url}/ping")
    assert (answer.status_code, answer.content) == (200, b"")
    assert httpx.head(f"{server.url}/ping").status_code == 200


def test_each_model_has_a_health_of_its_own(server: RunningServer) -> None:
    answer = httpx.get(f"{server.url}/team/dense/health")
    assert (answer.status_code, answer.json()) == (200, {"name": "team/dense", "state": "idle"})
    assert httpx.get(f"{server.url}/sparse/health").json()["name"] == "sparse"
    assert httpx.get(f"{server.url}/absent/health").status_code == 404
