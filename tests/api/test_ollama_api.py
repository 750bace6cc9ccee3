# SPDX-License-Identifier: Apache-2.0
"""Ollama's API: shapes and errors by the wire, and Ollama's own client on the real model."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ollama
import pytest

from appliance.engine.sources import locate_model
from appliance.settings import ModelSettings, Settings
from compat.durations import parse_duration
from tests.api.access import ask, guarded, secret
from tests.api.management import Fakes, eventually
from tests.conftest import REAL_MODEL, RunningServer, run_in_thread
from tests.fakes import FakeBackend, FakeTokenizer, fake_vector, loading
from tests.parity.reference import REAL, theirs

MODELS = (
    ModelSettings(model="fake/model", aliases=("small", "nomic-embed-text:v1.5")),
    ModelSettings(model="lazy", eager=False),
    ModelSettings(model="pinned", pinned=True),
    ModelSettings(model="narrow", max_concurrent_requests=1),
    ModelSettings(model="never", eager=False),
)
fakes = Fakes()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with run_in_thread(Settings(models=MODELS), loading(fakes)) as running:
        yield running


def post(server: RunningServer, path: str, **body: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=60)


def get(server: RunningServer, path: str) -> dict[str, Any]:
    answer = httpx.get(server.url + path)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def own_vector(text: str, dimensions: int = 8, *, unit: bool) -> np.ndarray:
    vector: np.ndarray = fake_vector(FakeTokenizer().encode([text])[0])[:dimensions]
    return np.asarray(vector / np.linalg.norm(vector)) if unit else vector


def running(server: RunningServer) -> list[str]:
    return [model["name"] for model in get(server, "/api/ps")["models"]]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/api/embed", "fake/model"),
        ("/api/embed", "small"),
        ("/api/embed", "small:latest"),
        ("/api/embed", "fake/model:latest"),
        ("/api/embed", "nomic-embed-text:v1.5"),
        ("/fake/model/api/embed", None),
        ("/fake/model/api/embed", "small:latest"),
    ],
)
def test_embed_gives_vectors_of_unit_length(
    server: RunningServer, path: str, name: str | None
) -> None:
    body = {} if name is None else {"model": name}
    answer = post(server, path, input=["a b", "c"], options={"num_ctx": 512}, **body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["model"] == (name or "fake/model")
    expected = [own_vector(text, unit=True) for text in ("a b", "c")]
    np.testing.assert_allclose(told["embeddings"], expected, atol=1e-6)
    assert told["prompt_eval_count"] == 4 + 3
    assert 0 <= told["load_duration"] < told["total_duration"]
    assert set(told) == {
        *("model", "embeddings", "total_duration", "load_duration", "prompt_eval_count")
    }


def test_a_bare_text_is_a_list_of_one(server: RunningServer) -> None:
    for dimensions in (None, 0, 4):
        answer = post(server, "/api/embed", model="small", input="a b", dimensions=dimensions)
        expected = [own_vector("a b", dimensions or 8, unit=True)]
        np.testing.assert_allclose(answer.json()["embeddings"], expected, atol=1e-6)


def test_the_older_route_gives_the_models_own_vector(server: RunningServer) -> None:
    answer = post(server, "/api/embeddings", model="small", prompt="a b")
    assert set(answer.json()) == {"embedding"}
    expected = own_vector("a b", unit=False)
    np.testing.assert_allclose(answer.json()["embedding"], expected, rtol=1e-5)
    assert not 0.9 < np.linalg.norm(expected) < 1.1


def test_long_texts_are_cut_at_their_end_unless_that_is_forbidden(server: RunningServer) -> None:
    long = " ".join("abcdefghij" * 5)
    start = " ".join("abcdefghij" * 3)
    cut = post(server, "/api/embed", model="small", input=[long, start]).json()["embeddings"]
    assert cut[0] == cut[1]
    assert post(server, "/api/embeddings", model="small", prompt=long).status_code == 200
    answer = post(server, "/api/embed", model="small", input=["a", long], truncate=False)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("the input length exceeds the context length: input[1")
    assert "52 tokens" in answer.json()["error"]


@pytest.mark.parametrize("nothing", [{}, {"input": ""}, {"input": []}, {"input": None}])
def test_no_input_loads_and_unloads(server: RunningServer, nothing: dict[str, Any]) -> None:
    assert "lazy:latest" not in running(server)
    answer = post(server, "/api/embed", model="lazy", keep_alive="1h", **nothing)
    assert (answer.status_code, answer.json()["embeddings"]) == (200, [])
    assert "lazy:latest" in running(server)
    answer = post(server, "/api/embed", model="lazy", keep_alive=0, **nothing)
    assert (answer.status_code, answer.json()["embeddings"]) == (200, [])
    eventually(lambda: "lazy:latest" not in running(server))


def test_no_prompt_loads_and_unloads(server: RunningServer) -> None:
    for keep_alive, is_there in (("5m", True), (0, False)):
        answer = post(server, "/api/embeddings", model="lazy", keep_alive=keep_alive)
        assert answer.json() == {"embedding": []}
        eventually(lambda there=is_there: ("lazy:latest" in running(server)) is there)


def test_unloading_what_is_not_loaded_loads_nothing(server: RunningServer) -> None:
    answer = post(server, "/api/embed", model="never", keep_alive=0)
    assert (answer.status_code, answer.json()["embeddings"]) == (200, [])
    assert not fakes.made.get("never")


def test_a_pinned_model_stays(server: RunningServer) -> None:
    assert post(server, "/api/embed", model="pinned", keep_alive=0).status_code == 200
    assert post(server, "/api/embed", model="pinned", input="a", keep_alive=0).status_code == 200
    assert "pinned:latest" in running(server)
    assert len(fakes.made["pinned"]) == 1


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        ("5m", 300),
        ("1h30m", 5400),
        ("300ms", 0.3),
        ("1.5h", 5400),
        ("-1m", -60),
        ("0", 0),
        ("-1", -1),
        ("90", 90),
        ("+2us", 2e-6),
        ("5 m", None),
        ("m", None),
        ("", None),
        ("\N{ARABIC-INDIC DIGIT FIVE}m", None),
        ("1h-30m", None),
    ],
)
def test_durations_are_gos(sent: str, seconds: float | None) -> None:
    assert parse_duration(sent) == (seconds if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("keep_alive", "seconds"), [("10m", 600), (600, 600), (-1, None), ("-5s", None), ("-1", None)]
)
def test_keep_alive_is_when_a_model_expires(
    server: RunningServer, keep_alive: str | int, seconds: int | None
) -> None:
    post(server, "/api/embed", model="small", input="a", keep_alive=keep_alive)
    [told] = [m for m in get(server, "/api/ps")["models"] if m["name"] == "fake/model:latest"]
    left = datetime.fromisoformat(told["expires_at"]) - datetime.now(UTC)
    wanted = timedelta(days=36525) if seconds is None else timedelta(seconds=seconds)
    assert wanted - timedelta(seconds=60) < left <= wanted


def test_tags_list_each_name_and_wake_nothing(server: RunningServer) -> None:
    models = get(server, "/api/tags")["models"]
    by_name = {model["name"]: model for model in models}
    assert {"fake/model:latest", "small:latest", "nomic-embed-text:v1.5", "lazy:latest"} <= {
        *by_name
    }
    small, whole = by_name["small:latest"], by_name["fake/model:latest"]
    assert small["digest"] == whole["digest"] != by_name["lazy:latest"]["digest"]
    assert len(small["digest"]) == 64
    assert small["model"] == "small:latest"
    assert small["details"]["format"] == "safetensors"
    assert small["details"]["quantization_level"] == "F32"
    assert by_name["never:latest"]["details"]["families"] == []
    get(server, "/api/ps")
    assert not fakes.made.get("never")


def test_show_tells_the_lengths(server: RunningServer) -> None:
    for field in ("model", "name"):
        told = post(server, "/api/show", **{field: "small:latest"}).json()
        architecture = told["model_info"]["general.architecture"]
        assert told["model_info"][f"{architecture}.embedding_length"] == 8
        assert told["model_info"][f"{architecture}.context_length"] == 32
        assert told["capabilities"] == ["embedding"]
    assert get(server, "/api/version")["version"].count(".") == 2


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", "/api/pull", "POST /api/models"),
        ("POST", "/api/push", "POST /api/models"),
        ("POST", "/api/create", "POST /api/models"),
        ("POST", "/api/copy", "POST /api/models"),
        ("DELETE", "/api/delete", "DELETE /api/models/"),
        ("POST", "/api/generate", "/api/embed"),
        ("POST", "/api/chat", "/api/embed"),
    ],
)
def test_what_is_not_served_says_what_is(
    server: RunningServer, method: str, path: str, words: str
) -> None:
    answer = httpx.request(method, server.url + path, json={"model": "x"})
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert words in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/api/embed", {"input": "a"}, 400, "model is required"),
        ("/api/show", {}, 400, "model is required"),
        (
            "/api/embed",
            {"model": "x", "input": "a"},
            404,
            'model "x" not found, try pulling it first',
        ),
        ("/api/show", {"model": "x:latest"}, 404, 'model "x" not found, try pulling it first'),
        ("/fake/model/api/embed", {"model": "lazy", "input": "a"}, 404, "not found"),
        ("/api/embed", {"model": "small", "input": [1, 2]}, 400, "'input[0]' is invalid"),
        ("/api/embed", {"model": "small", "input": ["a", ""]}, 400, "input[1] is empty"),
        ("/api/embed", {"model": "small", "input": "a", "dimensions": 9}, 400, "between 1 and 8"),
        ("/api/embed", {"model": "small", "input": "a", "dimensions": -1}, 400, "'dimensions'"),
        ("/api/embed", {"model": "small", "input": "a", "keep_alive": "soon"}, 400, "'keep_alive'"),
        ("/api/embed", {"model": "small", "keep_alive": "1"}, 200, ""),
        ("/api/embeddings", {"model": "small", "prompt": ["a"]}, 400, "'prompt' is invalid"),
    ],
)
def test_errors_have_ollamas_shape(
    server: RunningServer, path: str, body: dict[str, Any], status: int, words: str
) -> None:
    answer = post(server, path, **body)
    assert answer.status_code == status, answer.text
    if status >= 400:
        assert set(answer.json()) == {"error"}
        assert words in answer.json()["error"]


def test_a_full_server_is_told_of_as_ollama_does() -> None:
    def make(_: ModelSettings) -> FakeBackend:
        return FakeBackend()

    models = (ModelSettings(model="full", max_concurrent_requests=1),)
    with run_in_thread(Settings(models=models), loading(make)) as server:
        assert server.engine is not None
        server.engine.model("full").requests += 1
        answer = post(server, "/api/embed", model="full", input="a")
        server.engine.model("full").requests -= 1
    assert answer.status_code == 503
    assert answer.json()["error"].startswith("server busy, please try again.")
    assert int(answer.headers["retry-after"]) >= 1


def test_keys_see_and_use_their_own_models(tmp_path: Path) -> None:
    with run_in_thread(guarded(tmp_path)) as server:
        key = secret(server, models=["other"])
        listed = ask(server, key, "GET", "/api/tags").json()["models"]
        assert [model["name"] for model in listed] == ["other:latest"]
        loaded = ask(server, key, "GET", "/api/ps").json()["models"]
        assert [model["name"] for model in loaded] == ["other:latest"]
        for path in ("/api/embed", "/api/show"):
            body = {"model": "small", "input": "a"}
            answer = ask(server, key, "POST", path, json=body)
            assert answer.status_code == 403
            assert "does not have access" in answer.json()["error"]
        for path in ("/api/tags", "/api/ps", "/api/version"):
            answer = ask(server, None, "GET", path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert set(answer.json()) == {"error"}


def test_ollamas_client_gets_the_real_models_vectors(real_server: RunningServer) -> None:
    texts = ["The cat sat on the mat.", "Der Himmel ist blau. " * 300, "x"]
    expected = theirs(locate_model(REAL, revision=None, token=None, cache=None), texts)
    with ollama.Client(real_server.url) as client:
        assert [model.model for model in client.list().models] == [f"{REAL_MODEL}:latest"]
        got = client.embed(f"{REAL_MODEL}:latest", texts)
        np.testing.assert_allclose(np.array(got.embeddings), expected, atol=1e-5)
        old = client.embeddings(REAL_MODEL, texts[0])
        np.testing.assert_allclose(np.array(old.embedding), expected[0], atol=1e-5)
        shown = client.show(REAL_MODEL)
        assert shown.modelinfo is not None
        assert shown.modelinfo["general.architecture"] == "bert"
        assert shown.modelinfo["bert.embedding_length"] == expected.shape[1]
        [loaded] = client.ps().models
        assert loaded.size is not None
        assert loaded.size > 80_000_000
        with pytest.raises(ollama.ResponseError, match="try pulling it first") as caught:
            client.embed("llama3", "x")
        assert caught.value.status_code == 404
