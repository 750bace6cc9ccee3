# SPDX-License-Identifier: Apache-2.0
"""Cohere's embed API: shapes and errors by the wire, and Cohere's own client on the real model."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import cohere
import httpx
import numpy as np
import pytest

from appliance.engine.calibration import read_calibration
from appliance.engine.inputs import Inputs
from appliance.engine.served import ServedModel
from appliance.engine.sources import locate_model
from appliance.engine.types import Embedding, EmbedOptions, FloatMatrix, OutputDtype
from appliance.engine.vectors import finish_vectors, ranges_of
from appliance.settings import ModelSettings, Settings
from tests.api.access import KEY, ask, guarded, secret
from tests.api.management import Fakes
from tests.conftest import REAL_MODEL, RunningServer, run_in_thread
from tests.fakes import FakeTokenizer, fake_vector, loading
from tests.parity.reference import REAL, theirs

MODEL = "fake/model"
MODELS = (
    ModelSettings(model=MODEL, aliases=("embed-english-v3.0",), max_client_batch_size=128),
    ModelSettings(model="grouping", prompts={"clustering": "group: "}),
)
DTYPES: tuple[OutputDtype, ...] = ("float", "int8", "uint8", "binary", "ubinary")
TEXTS = ["a b", "c", "d e f"]
fakes = Fakes()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with run_in_thread(Settings(models=MODELS), loading(fakes)) as running:
        yield running


def embed(server: RunningServer, path: str = "/v2/embed", **body: Any) -> httpx.Response:
    body = {"model": MODEL, "input_type": "classification", "texts": TEXTS, **body}
    sent = {name: value for name, value in body.items() if value is not None}
    return httpx.post(server.url + path, json=sent, timeout=60)


def raw_vectors(texts: list[str]) -> FloatMatrix:
    """What the fake model says of texts, cut to what it reads."""
    tokenizer = FakeTokenizer()
    cut = [
        ids if len(ids) <= 32 else tokenizer.cut(ids, 32, "right")
        for ids in tokenizer.encode(texts)
    ]
    return np.stack([fake_vector(ids) for ids in cut])


def own_vectors(texts: list[str]) -> FloatMatrix:
    raw = raw_vectors(texts)
    return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True), dtype=np.float32)


def floats_of(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["embeddings"]["float"])


@pytest.mark.parametrize("path", ["/v2/embed", "/fake/model/v2/embed"])
def test_vectors_by_type(server: RunningServer, path: str) -> None:
    answer = embed(server, path, model="embed-english-v3.0")
    np.testing.assert_allclose(floats_of(answer), own_vectors(TEXTS), atol=1e-6)
    told = answer.json()
    assert told["response_type"] == "embeddings_by_type"
    assert told["texts"] == TEXTS
    assert told["meta"]["api_version"] == {"version": "2"}
    assert told["meta"]["billed_units"] == {"input_tokens": 4 + 3 + 5}
    assert set(told["embeddings"]) == {"float"}
    assert told["id"] != embed(server).json()["id"]


@pytest.mark.parametrize("dimensions", [None, 5])
def test_all_types_come_of_one_pass(server: RunningServer, dimensions: int | None) -> None:
    embed(server, embedding_types=["int8"], output_dimension=dimensions)  # to be calibrated
    before = sum(map(len, fakes.made[MODEL][-1].batches))
    kinds = [*DTYPES, "base64", "float"]
    answer = embed(server, embedding_types=kinds, output_dimension=dimensions)
    assert sum(map(len, fakes.made[MODEL][-1].batches)) == before + len(TEXTS)
    assert answer.status_code == 200, answer.text
    told = answer.json()["embeddings"]
    assert set(told) == {*kinds}
    corpus = raw_vectors([str(text) for text in read_calibration(None)])
    for dtype in DTYPES:
        expected = finish_vectors(
            raw_vectors(TEXTS),
            dimensions=dimensions,
            normalize=True,
            output_dtype=dtype,
            ranges=ranges_of(corpus, dimensions=dimensions, normalize=True),
        )
        np.testing.assert_allclose(told[dtype], expected, atol=1e-6, err_msg=dtype)
    decoded = [np.frombuffer(base64.b64decode(row), "<f4") for row in told["base64"]]
    np.testing.assert_array_equal(decoded, np.array(told["float"], dtype=np.float32))


def test_the_first_version_answers_a_plain_list(server: RunningServer) -> None:
    told = embed(server, "/v1/embed", input_type=None).json()
    assert told["response_type"] == "embeddings_floats"
    np.testing.assert_allclose(told["embeddings"], own_vectors(TEXTS), atol=1e-6)
    assert told["meta"]["api_version"] == {"version": "1"}
    told = embed(server, "/v1/embed", embedding_types=["float", "binary"]).json()
    assert told["response_type"] == "embeddings_by_type"
    assert set(told["embeddings"]) == {"float", "binary"}


@pytest.mark.parametrize(
    ("model", "kind", "prompt"),
    [
        (MODEL, "search_query", "find: "),
        (MODEL, "search_document", "fact: "),
        (MODEL, "classification", ""),
        (MODEL, "clustering", ""),
        ("grouping", "clustering", "group: "),
        ("grouping", "search_query", "find: "),
    ],
)
def test_input_type_is_the_models_prompt(
    server: RunningServer, model: str, kind: str, prompt: str
) -> None:
    found = floats_of(embed(server, model=model, input_type=kind))
    expected = own_vectors([prompt + text for text in TEXTS])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_inputs_are_texts_in_pieces(server: RunningServer) -> None:
    pieces = [["a b"], ["c", "d"]]
    inputs = [{"content": [{"type": "text", "text": piece} for piece in row]} for row in pieces]
    answer = embed(server, texts=None, inputs=inputs)
    np.testing.assert_allclose(floats_of(answer), own_vectors(["a b", "c\nd"]), atol=1e-6)
    assert answer.json()["texts"] == ["a b", "c\nd"]


def test_more_texts_than_cohere_takes(server: RunningServer) -> None:
    assert len(floats_of(embed(server, texts=["a"] * 128))) == 128
    answer = embed(server, texts=["a"] * 129)
    assert answer.status_code == 400
    assert "texts has 129 items, but at most 128" in answer.json()["message"]


def test_long_texts_are_cut_as_asked(server: RunningServer) -> None:
    words = [f"w{number}" for number in range(50)]
    long, start, end = " ".join(words), " ".join(words[:30]), " ".join(words[-30:])
    for truncate, kept in ((None, start), ("END", start), ("START", end)):
        found = floats_of(embed(server, texts=[long], truncate=truncate))
        np.testing.assert_allclose(found, own_vectors([kept]), atol=1e-6, err_msg=str(truncate))
    answer = embed(server, texts=["a", long], truncate="NONE")
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("too many tokens: texts[1] has 52 tokens")
    found = floats_of(embed(server, texts=[long, "a b"], max_tokens=7))
    np.testing.assert_allclose(found, own_vectors([" ".join(words[:5]), "a b"]), atol=1e-6)
    answer = embed(server, texts=[long], max_tokens=7, truncate="NONE")
    assert "at most 7 are read" in answer.json()["message"]


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"model": None}, 400, "'model'"),
        ({"model": "embed-v9"}, 404, "'embed-v9' does not exist"),
        ({"input_type": None}, 400, "'input_type'"),
        ({"input_type": "image"}, 400, "'search_document', 'search_query'"),
        ({"texts": None}, 400, "'texts' or 'inputs'"),
        ({"inputs": []}, 400, "'texts' or 'inputs'"),
        ({"texts": []}, 400, "texts is an empty list"),
        ({"texts": ["a", ""]}, 400, "texts[1] is empty"),
        ({"texts": [1]}, 400, "'texts[0]' is invalid"),
        ({"texts": None, "inputs": [{"content": []}]}, 400, "'inputs[0].content' is invalid"),
        (
            {"texts": None, "inputs": [{"content": [{"type": "image_url", "image_url": {}}]}]},
            400,
            "'inputs[0].content[0].type' is invalid",
        ),
        ({"texts": None, "images": ["data:image/png;base64,"]}, 400, "models here read text"),
        ({"embedding_types": ["float", "int4"]}, 400, "'embedding_types[1]' is invalid"),
        ({"output_dimension": 9}, 400, "output_dimension is 9, but must be between 1 and 8"),
        ({"truncate": "MIDDLE"}, 400, "'NONE', 'START', 'END'"),
        ({"max_tokens": 0}, 400, "'max_tokens' is invalid"),
        ({"priority": -1}, 400, "'priority' is invalid"),
    ],
)
def test_errors_have_coheres_shape(
    server: RunningServer, fields: dict[str, Any], status: int, words: str
) -> None:
    answer = embed(server, **fields)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"id", "message"}
    assert answer.json()["id"] == answer.headers["x-request-id"]
    assert words in answer.json()["message"]


def test_keys_are_held_against_models(tmp_path: Path) -> None:
    body = {"model": "small", "texts": ["a"], "input_type": "clustering"}
    with run_in_thread(guarded(tmp_path)) as server:
        other = secret(server, models=["other"])
        answers = {
            key: ask(server, key, "POST", "/v2/embed", json=body)
            for key in (KEY, other, None, "wrong")
        }
    statuses = {key: answer.status_code for key, answer in answers.items()}
    assert statuses == {KEY: 200, other: 403, None: 401, "wrong": 401}
    assert answers["wrong"].json()["message"].startswith("invalid api token")
    assert answers[None].json()["message"].startswith("no api key supplied")


@pytest.mark.parametrize(("sent", "priority"), [(None, "normal"), (0, "normal"), (1, "low")])
def test_priority_has_two_classes(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, sent: int | None, priority: str
) -> None:
    engine = server.engine
    assert engine is not None
    asked: list[EmbedOptions] = []
    real: Callable[..., Awaitable[Embedding]] = engine.embed

    def note(model: ServedModel, inputs: Inputs, options: EmbedOptions) -> Awaitable[Embedding]:
        asked.append(options)
        return real(model, inputs, options)

    monkeypatch.setattr(engine, "embed", note)
    assert embed(server, priority=sent).status_code == 200
    assert [options.priority for options in asked] == [priority]


def test_coheres_clients_get_the_real_models_vectors(real_server: RunningServer) -> None:
    texts = ["The cat sat on the mat.", "Der Himmel ist blau. " * 300, *map(str, range(100))]
    expected = theirs(locate_model(REAL, revision=None, token=None, cache=None), texts)
    with httpx.Client(timeout=120) as http:  # the first int8 is calibrated
        client = cohere.ClientV2("none", base_url=real_server.url, httpx_client=http)
        got = client.embed(
            model=REAL_MODEL,
            texts=texts,
            input_type="search_document",
            embedding_types=["float", "int8", "binary"],
        )
        vectors = got.embeddings.float_
        assert vectors is not None
        np.testing.assert_allclose(np.array(vectors), expected, atol=1e-5)
        assert np.array(got.embeddings.int8).shape == expected.shape
        bits = np.array(got.embeddings.binary, dtype=np.int8)
        np.testing.assert_array_equal(bits.view(np.uint8) ^ 0x80, np.packbits(expected > 0, axis=1))
        old = cohere.Client("none", base_url=real_server.url, httpx_client=http)
        first = old.embed(texts=texts, model=REAL_MODEL, input_type="search_query")
        np.testing.assert_allclose(np.array(first.embeddings), expected, atol=1e-5)
        with pytest.raises(cohere.NotFoundError):
            client.embed(model="embed-v4.0", texts=["a"], input_type="search_query")
