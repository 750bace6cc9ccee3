# SPDX-License-Identifier: Apache-2.0
"""Documents ranked in the shape that Jina's and Cohere's APIs have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from appliance.settings import Settings
from tests.api.access import KEY, ask, guarded
from tests.api.tei import MODELS, TellingBackend, post
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import loading

DOCUMENTS = ["bad", {"text": "good", "title": "ignored"}, "fair"]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with run_in_thread(Settings(models=MODELS), loading(TellingBackend)) as running:
        yield running


def results(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_a_reranker(server: RunningServer, path: str) -> None:
    answer = post(server, path, model="reranker", query="what", documents=DOCUMENTS)
    assert answer.status_code == 200
    body = answer.json()
    assert body.pop("id")
    assert body == {
        "model": "reranker",
        "results": [
            {"index": 1, "relevance_score": pytest.approx(0.880797)},
            {"index": 2, "relevance_score": 0.5},
            {"index": 0, "relevance_score": pytest.approx(0.182426, rel=1e-5)},
        ],
        "usage": {"prompt_tokens": 15, "total_tokens": 15},
        "meta": {"billed_units": {"search_units": 1}},
    }
    assert "server-timing" in answer.headers
    assert "openai-processing-ms" in answer.headers


def test_documents_come_back_if_asked_for_and_only_the_best(server: RunningServer) -> None:
    body = {"query": "what", "documents": DOCUMENTS, "top_n": 2, "return_documents": True}
    assert [
        (result["index"], result["document"])
        for result in results(post(server, "/reranker/v1/rerank", **body))
    ] == [(1, {"text": "good"}), (2, {"text": "fair"})]


def test_an_embedding_model_ranks_by_cosine(server: RunningServer) -> None:
    body = {"model": "dense", "query": "east", "documents": ["west", "north", "east east", "north"]}
    answer = post(server, "/v1/rerank", **body)
    assert answer.json()["model"] == "team/dense"
    assert results(answer) == [
        {"index": 2, "relevance_score": 1.0},
        {"index": 1, "relevance_score": 0.0},
        {"index": 3, "relevance_score": 0.0},
        {"index": 0, "relevance_score": -1.0},
    ]
    # With the model's prompts, of one word each: "find: east", "fact: west" and so on.
    assert answer.json()["usage"]["total_tokens"] == 4 + 4 + 4 + 5 + 4


def test_long_documents_are_cut_unless_they_may_not_be(server: RunningServer) -> None:
    body = {"query": "east", "documents": ["east " * 50]}
    assert len(results(post(server, "/team/dense/v1/rerank", **body))) == 1
    answer = post(server, "/team/dense/v1/rerank", **body, truncate=False)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "documents[0]"


@pytest.mark.parametrize(
    ("change", "status", "param", "part"),
    [
        ({"query": ""}, 400, "query", "query is empty"),
        ({"documents": []}, 400, "documents", "documents is an empty list"),
        ({"documents": None}, 400, "documents", "Expected"),
        ({"documents": [{}]}, 400, "text", "provide 'text'"),
        ({"top_n": 0}, 400, "top_n", "Expected"),
        ({"model": None}, 400, "model", "provide a 'model'"),
        ({"model": "absent"}, 404, "model", "'absent' does not exist"),
        ({"model": "classifier"}, 400, "model", "ranks no documents"),
        ({"model": "sparse"}, 400, "model", "ranks no documents"),
        ({"model": "strict", "documents": ["a"] * 3}, 400, "documents", "at most 2"),
    ],
)
def test_refusals_have_the_shape_of_openais_api(
    server: RunningServer, change: dict[str, Any], status: int, param: str, part: str
) -> None:
    body = {"model": "reranker", "query": "what", "documents": ["good"], **change}
    answer = post(server, "/v1/rerank", **body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert part in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_key_is_asked_for() -> None:
    with run_in_thread(guarded(models=MODELS), loading(TellingBackend)) as server:
        body = {"model": "reranker", "query": "a", "documents": ["b"]}
        assert ask(server, None, "POST", "/v1/rerank", json=body).status_code == 401
        body["model"] = "dense"
        assert ask(server, KEY, "POST", "/v1/rerank", json=body).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "tokens"),
    [
        ("/v1/rerank", {"model": "dense", "query": "a", "documents": ["b", "c"]}, 12),
        ("/vertex", {"instances": [{"inputs": "a"}, {"inputs": ["b c", "d"]}]}, 10),
        ("/classifier/predict", {"inputs": [["a"], ["b", "c"], ["d"]]}, 3 + 5 + 3),
    ],
)
def test_work_done_in_parts_is_counted_as_one(path: str, body: dict[str, Any], tokens: int) -> None:
    with run_in_thread(Settings(models=MODELS), loading(TellingBackend)) as server:
        assert post(server, path, **body).status_code == 200
        metrics = httpx.get(f"{server.url}/metrics").text
    counted = [
        line.rpartition(" ")[2]
        for line in metrics.splitlines()
        if line.startswith("gen_ai_client_token_usage_sum")
    ]
    assert [float(number) for number in counted] == [tokens]
