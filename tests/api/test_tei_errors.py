# SPDX-License-Identifier: Apache-2.0
"""What text-embeddings-inference's clients are told of errors."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.engine.backend import Room
from appliance.engine.jobs import Batch
from appliance.settings import ModelSettings, Settings
from tests.api.access import KEY, ask, guarded, secret
from tests.api.tei import MODELS, TellingBackend, post
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import FakePrepared, loading

LONG = "east " * 40


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with run_in_thread(Settings(models=MODELS), loading(TellingBackend)) as running:
        yield running


# By name: the path, the body, and the status, the words and the kind that are answered.
REFUSED: dict[str, tuple[str, Any, int, str, str]] = {
    "no inputs": ("/embed", {"inputs": []}, 400, "`inputs` cannot be empty", "Empty"),
    "an empty input": (
        "/embed",
        {"inputs": ""},
        422,
        "Input validation error: `inputs` cannot be empty",
        "Validation",
    ),
    "an empty one of several": (
        "/embed_all",
        {"inputs": ["a", ""]},
        422,
        "Input validation error: `inputs` cannot be empty",
        "Validation",
    ),
    "too long": (
        "/embed",
        {"inputs": LONG, "truncate": False},
        422,
        "Input validation error: `inputs` must have less than 32 tokens. Given: 42",
        "Validation",
    ),
    "too long for a model that does not cut": (
        "/strict/embed",
        {"inputs": LONG},
        422,
        "Input validation error: `inputs` must have less than 32 tokens. Given: 42",
        "Validation",
    ),
    "too many": (
        "/strict/embed",
        {"inputs": ["a", "b", "c"]},
        422,
        "batch size 3 > maximum allowed batch size 2",
        "Validation",
    ),
    "too many sentences": (
        "/strict/similarity",
        {"inputs": {"source_sentence": "a", "sentences": ["b", "c"]}},
        422,
        "batch size 3 > maximum allowed batch size 2",
        "Validation",
    ),
    "too many to tokenize": (
        "/strict/tokenize",
        {"inputs": ["a", "b", "c"]},
        422,
        "batch size 3 > maximum allowed batch size 2",
        "Validation",
    ),
    "too many to decode": (
        "/strict/decode",
        {"ids": [[5], [6], [7]]},
        422,
        "batch size 3 > maximum allowed batch size 2",
        "Validation",
    ),
    "too many instances": (
        "/strict/vertex",
        {"instances": [{"inputs": "a"}] * 3},
        422,
        "batch size 3 > maximum allowed batch size 2",
        "Validation",
    ),
    "no dimensions": (
        "/embed",
        {"inputs": "a", "dimensions": 0},
        422,
        "Input validation error: `dimensions` should be positive",
        "Validation",
    ),
    "too many dimensions": (
        "/embed",
        {"inputs": "a", "dimensions": 3},
        422,
        (
            "Input validation error: `dimensions` should be smaller than the maximum embedding"
            " dimension."
        ),
        "Validation",
    ),
    "texts and ids": (
        "/embed",
        {"inputs": ["a", [5]]},
        422,
        (
            "Input validation error: `inputs` must be all strings, all token ids, or all lists of"
            " token ids"
        ),
        "Validation",
    ),
    "no field": (
        "/embed",
        {},
        422,
        "You must provide 'inputs' in the request's body.",
        "Validation",
    ),
    "a field of a wrong type": (
        "/embed",
        {"inputs": "a", "normalize": "yes"},
        422,
        "'normalize' is invalid: Expected `bool`, got `str`.",
        "Validation",
    ),
    "a wrong choice": (
        "/embed",
        {"inputs": "a", "truncation_direction": "up"},
        422,
        (
            "'truncation_direction' is invalid: Invalid enum value 'up'; allowed are 'right',"
            " 'left', 'Right', 'Left'."
        ),
        "Validation",
    ),
    "an unknown prompt": (
        "/embed",
        {"inputs": "a", "prompt_name": "none"},
        422,
        "The model has no prompt called 'none'; it has: 'query', 'passage'.",
        "Validation",
    ),
    "an unknown model": (
        "/absent/embed",
        {"inputs": "a"},
        404,
        (
            "The model 'absent' does not exist. Served here: 'team/dense', 'sparse', 'classifier',"
            " 'reranker', 'strict'."
        ),
        "Validation",
    ),
    "no sentences": (
        "/similarity",
        {"inputs": {"source_sentence": "a", "sentences": []}},
        400,
        "`inputs.sentences` cannot be empty",
        "Empty",
    ),
    "no texts": (
        "/reranker/rerank",
        {"query": "q", "texts": []},
        400,
        "`texts` cannot be empty",
        "Empty",
    ),
    "nothing to tokenize": ("/tokenize", {"inputs": []}, 400, "`inputs` cannot be empty", "Empty"),
    "nothing to decode": (
        "/decode",
        {"ids": []},
        422,
        "Input validation error: `input_ids` cannot be empty",
        "Validation",
    ),
    "ids and lists of ids": (
        "/decode",
        {"ids": [5, [6]]},
        422,
        "Input validation error: `ids` must be all token ids, or all lists of token ids",
        "Validation",
    ),
    "no instances": ("/vertex", {"instances": []}, 400, "`instances` cannot be empty", "Empty"),
    "an instance that is none": (
        "/vertex",
        {"instances": [{"inputs": "a"}, 5]},
        422,
        "The request's body is invalid: Expected `object`, got `int`.",
        "Validation",
    ),
    "three texts are no pair": (
        "/classifier/predict",
        {"inputs": ["a", "b", "c"]},
        422,
        (
            "Input validation error: `inputs` must be a string, a pair of strings [string, string],"
            " or a batch of strings and pairs [[string], [string, string], ...]"
        ),
        "Validation",
    ),
    "vectors of a classifier": (
        "/classifier/embed",
        {"inputs": "a"},
        424,
        (
            "Backend error: The model 'classifier' gives no embeddings: it is a classifier, which"
            " gives scores."
        ),
        "Backend",
    ),
    "a ranking by an embedding model": (
        "/rerank",
        {"query": "q", "texts": ["a"]},
        424,
        "Backend error: model is not a re-ranker model",
        "Backend",
    ),
    "a ranking by a classifier": (
        "/classifier/rerank",
        {"query": "q", "texts": ["a"]},
        424,
        "Backend error: model is not a re-ranker model",
        "Backend",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(server: RunningServer, name: str) -> None:
    path, body, status, error, kind = REFUSED[name]
    answer = post(server, path, **body)
    assert (answer.status_code, answer.json()) == (status, {"error": error, "error_type": kind})
    assert answer.headers["content-type"] == "application/json"
    assert "x-compute-time" not in answer.headers
    assert post(server, "/embed", inputs="east").text == "[[1.0,0.0]]"


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("/embed_sparse", "gives no sparse embeddings"),
        ("/sparse/embed_all", "gives no embeddings of tokens"),
        ("/predict", "gives no scores"),
    ],
)
def test_a_model_of_another_kind(server: RunningServer, path: str, part: str) -> None:
    answer = post(server, path, inputs="a")
    assert (answer.status_code, answer.json()["error_type"]) == (424, "Backend")
    assert part in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "headers", "status", "part"),
    [
        (b"{", {}, 400, "could not parse the JSON body"),
        (b"\xff", {}, 400, "could not parse the JSON body"),
        (b"[]", {}, 422, "Expected `object`, got `array`"),
        (b"{}", {"content-type": "text/plain"}, 415, "must be 'application/json'"),
        (b'{"inputs":"a","inputs":"b"}', {}, 422, "'inputs' is there twice"),
        (b" " * 2_000_001, {}, 413, "more than 2000000 bytes"),
    ],
)
@pytest.mark.parametrize("path", ["/embed", "/tokenize", "/"])
def test_bodies_that_cannot_be_read(
    server: RunningServer,
    path: str,
    content: bytes,
    headers: Mapping[str, str],
    status: int,
    part: str,
) -> None:
    if len(content) > 1000:  # valid, as it would be found out only then
        content = json.dumps({"inputs": "a", "ids": content.decode()}).encode()
    answer = httpx.post(server.url + path, content=content, headers=headers)
    assert (answer.status_code, answer.json()["error_type"]) == (status, "Validation")
    assert part in answer.json()["error"]


def test_a_model_may_take_larger_or_smaller_bodies(server: RunningServer) -> None:
    answer = post(server, "/strict/embed", inputs="a" * 300)
    assert (answer.status_code, answer.json()["error_type"]) == (413, "Validation")
    models = (ModelSettings(model="m", payload_limit=3_000_000),)
    with run_in_thread(Settings(models=models), loading(TellingBackend)) as large:
        assert post(large, "/embed", inputs="a" * 2_500_000).status_code == 200


def test_a_key_that_is_missing_or_bad_is_answered_with_no_words() -> None:
    with run_in_thread(guarded(models=MODELS), loading(TellingBackend)) as server:
        for key in (None, "wrong"):
            for method, path in (("POST", "/embed"), ("GET", "/info"), ("POST", "/")):
                answer = ask(server, key, method, path)
                assert (answer.status_code, answer.content) == (401, b"")
                assert answer.headers["www-authenticate"] == "Bearer"
        assert ask(server, KEY, "POST", "/embed", json={"inputs": "a"}).status_code == 200
        for path in ("/health", "/ping", "/team/dense/health"):
            assert ask(server, None, "GET", path).status_code == 200


def test_a_key_that_is_good_for_less(tmp_path: Path) -> None:
    with run_in_thread(guarded(tmp_path, models=MODELS), loading(TellingBackend)) as server:
        key = secret(server, scopes=["embed"], models=["sparse"])
        refused = {
            "error": "Your API key does not have access to the model 'team/dense'.",
            "error_type": "Validation",
        }
        body = {"inputs": "a", "ids": [5]}
        for path in ("/embed", "/embed_all", "/tokenize", "/decode", "/"):
            answer = ask(server, key, "POST", path, json=body)
            assert (answer.status_code, answer.json()) == (403, refused), path
        assert ask(server, key, "GET", "/info").json() == refused
        assert ask(server, key, "POST", "/sparse/embed_sparse", json=body).status_code == 200


def test_a_quota_is_spent_by_what_was_read(tmp_path: Path) -> None:
    with run_in_thread(guarded(tmp_path, models=MODELS), loading(TellingBackend)) as server:
        key = secret(server, scopes=["embed"], tokens_per_minute=8)
        body = {"inputs": ["a", "b"]}
        answer = ask(server, key, "POST", "/embed", json=body)
        assert answer.headers["x-ratelimit-remaining-tokens"] == "2"
        answer = ask(server, key, "POST", "/embed", json={"inputs": "word " * 20})
        assert (answer.status_code, answer.json()["error_type"]) == (429, "Overloaded")
        assert int(answer.headers["retry-after"]) >= 1


def test_an_overloaded_model() -> None:
    go, running = threading.Event(), threading.Event()

    def hold(_batch: Batch) -> None:
        running.set()
        assert go.wait(30)

    def make(model: ModelSettings) -> TellingBackend:
        return TellingBackend(model, before_forward=hold)

    models = (ModelSettings(model="m", max_concurrent_requests=1),)
    with run_in_thread(Settings(models=models), loading(make)) as server:
        first = threading.Thread(target=post, args=(server, "/embed"), kwargs={"inputs": "a"})
        first.start()
        try:
            assert running.wait(30)
            answer = post(server, "/embed", inputs="a")
        finally:
            go.set()
            first.join()
    assert (answer.status_code, answer.json()["error_type"]) == (429, "Overloaded")
    assert int(answer.headers["retry-after"]) >= 1


def test_a_model_that_fails() -> None:
    def fail(_batch: Batch) -> None:
        raise RuntimeError("secret details")

    def make(model: ModelSettings) -> TellingBackend:
        return TellingBackend(model, before_forward=fail)

    with run_in_thread(Settings(models=(ModelSettings(model="m"),)), loading(make)) as server:
        answer = post(server, "/embed", inputs="a")
    assert (answer.status_code, answer.json()["error_type"]) == (424, "Backend")
    assert "secret" not in answer.text


def test_a_model_that_cannot_be_loaded() -> None:
    def load(_s: Settings, _m: ModelSettings, _r: Mapping[str, Room]) -> FakePrepared:
        raise RuntimeError("no such weights")

    with run_in_thread(Settings(models=(ModelSettings(model="m"),)), load, wait=False) as server:
        assert server.engine is not None
        while server.engine.status == "loading":
            threading.Event().wait(0.01)
        for answer in (
            post(server, "/embed", inputs="a"),
            post(server, "/tokenize", inputs="a"),
            httpx.get(f"{server.url}/info"),
        ):
            assert (answer.status_code, answer.json()["error_type"]) == (503, "Unhealthy")
        for path in ("/ping", "/m/health"):
            assert httpx.get(server.url + path).status_code == 503


def test_no_model_at_all() -> None:
    with run_in_thread(Settings(models=(ModelSettings(model="m"),))) as server:
        assert httpx.delete(f"{server.url}/api/models/m").status_code == 200
        answer = post(server, "/embed", inputs="a")
        assert (answer.status_code, answer.json()["error_type"]) == (404, "Validation")
