# SPDX-License-Identifier: Apache-2.0
"""What a good request to OpenAI's routes is answered with."""

from __future__ import annotations

import base64

import httpx
import numpy as np
import pytest

from appliance.settings import ModelSettings, Settings
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import FakeBackend, FakeTokenizer, fake_vector, loading, word_id

MODEL = "fake/model"


def unit_vector(text: str, dimensions: int = 8) -> np.ndarray:
    vector = fake_vector(FakeTokenizer().encode([text])[0])[:dimensions]
    return vector / np.linalg.norm(vector)


def vectors_of(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    data = response.json()["data"]
    assert [item["index"] for item in data] == list(range(len(data)))
    return np.array([item["embedding"] for item in data], dtype=np.float32)


def test_one_text(fake_server: RunningServer) -> None:
    response = fake_server.embed(model=MODEL, input="one two three", user="someone")
    np.testing.assert_allclose(vectors_of(response)[0], unit_vector("one two three"), atol=1e-6)
    body = response.json()
    assert body["object"] == "list"
    assert body["model"] == MODEL
    assert body["data"][0]["object"] == "embedding"
    assert body["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


def test_many_texts_keep_their_order(fake_server: RunningServer) -> None:
    texts = [f"text {number} " + "word " * (number % 29) for number in range(2048)]
    response = fake_server.embed(model=MODEL, input=texts)
    expected = np.array([unit_vector(text) for text in texts])
    np.testing.assert_allclose(vectors_of(response), expected, atol=1e-6)


def test_base64_is_little_endian_float32(fake_server: RunningServer) -> None:
    as_floats = vectors_of(fake_server.embed(model=MODEL, input=["a", "b c"]))
    response = fake_server.embed(model=MODEL, input=["a", "b c"], encoding_format="base64")
    decoded = [
        np.frombuffer(base64.b64decode(item["embedding"], validate=True), dtype="<f4")
        for item in response.json()["data"]
    ]
    np.testing.assert_array_equal(np.array(decoded), as_floats)


def test_large_answers_are_as_good_as_small_ones(fake_server: RunningServer) -> None:
    texts = [f"number {number}" for number in range(2000)]  # encoded off the event loop
    large = fake_server.embed(model=MODEL, input=texts, encoding_format="base64").json()["data"]
    small = fake_server.embed(model=MODEL, input=texts[7], encoding_format="base64").json()
    assert large[7]["embedding"] == small["data"][0]["embedding"]


def test_dimensions_are_cut_then_renormalised(fake_server: RunningServer) -> None:
    response = fake_server.embed(model=MODEL, input="one two", dimensions=3)
    np.testing.assert_allclose(vectors_of(response)[0], unit_vector("one two", 3), atol=1e-6)


def test_normalize_false_gives_the_models_own_output(fake_server: RunningServer) -> None:
    own = fake_vector(FakeTokenizer().encode(["one two"])[0])
    response = fake_server.embed(model=MODEL, input="one two", normalize=False)
    np.testing.assert_array_equal(vectors_of(response)[0], own)
    cut = fake_server.embed(model=MODEL, input="one two", normalize=False, dimensions=3)
    np.testing.assert_array_equal(vectors_of(cut)[0], own[:3])


def test_token_ids_of_cl100k_base_mean_the_text_they_stand_for(
    fake_server: RunningServer,
) -> None:
    ids = [9906, 1917]  # "Hello world"
    as_text = vectors_of(fake_server.embed(model=MODEL, input="Hello world"))
    one = fake_server.embed(model=MODEL, input=ids)
    np.testing.assert_array_equal(vectors_of(one), as_text)
    several = fake_server.embed(model=MODEL, input=[ids, [9906], ids])
    np.testing.assert_array_equal(vectors_of(several)[[0, 2]], np.vstack([as_text, as_text]))


def test_native_token_ids_are_used_as_they_are(fake_server: RunningServer) -> None:
    ids = [0, word_id("hello"), 1]
    response = fake_server.embed(model=MODEL, input=ids, token_encoding="native")
    np.testing.assert_allclose(vectors_of(response)[0], unit_vector("hello"), atol=1e-6)
    assert response.json()["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize(("direction", "kept"), [("right", slice(0, 30)), ("left", slice(10, 40))])
def test_truncation_keeps_the_end_that_was_asked_for(
    fake_server: RunningServer, direction: str, kept: slice
) -> None:
    words = [f"w{number}" for number in range(40)]
    response = fake_server.embed(
        model=MODEL, input=" ".join(words), truncate=True, truncation_direction=direction
    )
    np.testing.assert_allclose(
        vectors_of(response)[0], unit_vector(" ".join(words[kept])), atol=1e-6
    )
    assert response.json()["usage"]["prompt_tokens"] == 32


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({"input_type": "query"}, "find: "),
        ({"input_type": "document"}, "fact: "),
        ({"prompt_name": "passage"}, "fact: "),
        ({"prompt_name": "mine"}, "own: "),
        ({"prompt": "just so: "}, "just so: "),
        ({"prompt": ""}, ""),
        ({}, "own: "),
    ],
)
def test_a_prompt_goes_before_each_text(fields: dict[str, str], prompt: str) -> None:
    model = ModelSettings(model=MODEL, prompts={"mine": "own: "}, default_prompt_name="mine")
    with run_in_thread(Settings(models=(model,))) as server:
        for given, text in (("one two", "one two"), ([374, 832], " is one")):
            response = server.embed(model=MODEL, input=given, **fields)
            np.testing.assert_allclose(
                vectors_of(response)[0], unit_vector(prompt + text), atol=1e-6
            )


def test_input_type_adds_nothing_where_the_model_has_no_such_prompt() -> None:
    def backend(_: ModelSettings) -> FakeBackend:
        made = FakeBackend()
        made.prompts = {"summary": "sum up: "}
        return made

    with run_in_thread(load=loading(backend)) as server:
        plain = vectors_of(server.embed(model=MODEL, input="a b"))
        typed = vectors_of(server.embed(model=MODEL, input="a b", input_type="query"))
        np.testing.assert_array_equal(plain, typed)


@pytest.mark.parametrize("name", [MODEL, "text-embedding-3-small"])
def test_a_model_answers_to_its_name_and_its_alias(fake_server: RunningServer, name: str) -> None:
    assert fake_server.embed(model=name, input="a").json()["model"] == MODEL
    assert httpx.get(f"{fake_server.url}/v1/models/{name}").json()["id"] == MODEL


@pytest.mark.parametrize("path", ["fake/model", "text-embedding-3-small"])
def test_a_models_own_path_needs_no_model_in_the_body(
    fake_server: RunningServer, path: str
) -> None:
    response = httpx.post(f"{fake_server.url}/{path}/v1/embeddings", json={"input": "a"})
    np.testing.assert_allclose(vectors_of(response)[0], unit_vector("a"), atol=1e-6)
    listed = httpx.get(f"{fake_server.url}/{path}/v1/models").json()
    assert [model["id"] for model in listed["data"]] == [MODEL]


def test_a_path_does_not_serve_another_model(fake_server: RunningServer) -> None:
    response = httpx.post(
        f"{fake_server.url}/other/v1/embeddings", json={"input": "a", "model": MODEL}
    )
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    agreeing = httpx.post(
        f"{fake_server.url}/other/v1/embeddings", json={"input": "a", "model": "other"}
    )
    assert agreeing.json()["model"] == "other"


def test_models_are_listed(fake_server: RunningServer) -> None:
    listed = httpx.get(f"{fake_server.url}/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == [MODEL, "other"]
    for model in listed["data"]:
        assert model["object"] == "model"
        assert model["owned_by"] == "appliance"
        assert isinstance(model["created"], int)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/nothing", "/health"])
def test_every_answer_has_a_request_id(fake_server: RunningServer, path: str) -> None:
    fresh = [httpx.get(fake_server.url + path).headers["x-request-id"] for _ in range(2)]
    assert fresh[0] != fresh[1]
    kept = httpx.get(fake_server.url + path, headers={"x-request-id": "trace-7"})
    assert kept.headers.get_list("x-request-id") == ["trace-7"]
    unfit = httpx.get(fake_server.url + path, headers={"x-request-id": "a b" * 100})
    assert unfit.headers["x-request-id"].startswith("req_")


def test_answers_say_how_long_they_took(fake_server: RunningServer) -> None:
    for body in ({"model": MODEL, "input": "a"}, {"model": "absent", "input": "a"}):
        response = fake_server.embed(**body)
        assert int(response.headers["openai-processing-ms"]) >= 0


def test_answers_say_where_the_time_went(fake_server: RunningServer) -> None:
    timing = fake_server.embed(model=MODEL, input="a").headers["server-timing"]
    parts = dict(part.split(";dur=") for part in timing.split(", "))
    assert list(parts) == ["tokenize", "queue", "forward", "encode"]
    assert all(float(milliseconds) >= 0 for milliseconds in parts.values())
