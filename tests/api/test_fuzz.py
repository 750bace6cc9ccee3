# SPDX-License-Identifier: Apache-2.0
"""Bodies that nobody would write: each is answered, none with a fault of ours.

``FUZZ_CASES`` is how many to try; for a night's run set it to 20000 and more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.settings import ModelSettings
from compat.openai import EmbeddingRequest
from tests.conftest import run_process

CASES = int(os.environ.get("FUZZ_CASES", "2000")) // 4
MOST_GROWTH_BYTES = 50_000_000
MODEL = "fake/model"
fuzzed = settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


# In a process of its own, whose memory is the server's alone.
SERVE = f"""
import uvicorn
from appliance.app import create_app
from appliance.bounded_http import BoundedHttp
from appliance.settings import ModelSettings, Settings
from tests.fakes import load_fake

settings = Settings(models=(ModelSettings(model={MODEL!r}),))
uvicorn.run(create_app(settings, load_fake), port=0, http=BoundedHttp, access_log=False, ws="none")
"""


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    headers = {"content-type": "application/json"}
    with (
        run_process(code=SERVE, fresh=True) as server,
        httpx.Client(base_url=server.url, headers=headers, timeout=60) as client,
    ):
        assert server.process is not None
        memory = psutil.Process(server.process.pid).memory_info
        before = memory().rss
        yield client
        assert memory().rss - before < MOST_GROWTH_BYTES
        good = client.post("/v1/embeddings", json={"model": MODEL, "input": "a"})
        assert good.status_code == 200


def plausible(field: str) -> st.SearchStrategy[Any]:
    """Values that a field may have, and some that it may not have by a hair."""
    known: dict[str, list[Any]] = {
        "model": [
            MODEL,
            "",
            "embedded:x",
            "/",
            "~",
            "a/b/c",
            "\x00",
            "a" * 300,
            "../..",
            "~nobody",
            "~é",
            "é/中",
            "a" * 9000,
        ],
        "input": ["a", ["a", "b"], [1, 2], [[1], [2]], [], [[]], "", [""], ["a", 1], [2**63], [-1]],
        "encoding_format": ["float", "base64", ""],
        "output_dtype": ["float", "int8", "uint8", "binary", "ubinary"],
        "dimensions": [1, 8, 9, 0, -1, 2**70, 1e400, 1.0],
        "keep_alive": [-1, 0, 1e308, -2, 5],
        "truncation_direction": ["left", "right"],
        "token_encoding": ["cl100k_base", "native", "reject"],
        "prompt_name": ["query", "x"],
        "input_type": ["query", "document"],
        "device_map": ["auto", "cpu", "cuda:99999999999999999999"],
        "max_memory": [{"cpu": "1GiB"}, {"x": "1"}, {}],
        "prompts": [{"a": "b"}, {"": ""}, {"a": 1}],
        "aliases": [["x"], ["a/b/c"], [""], ["/"], "x", [MODEL]],
        "calibration": ["/", "", "\x00", "x.npy", "a" * 5000],
        "name": ["x", "a b", "api/x", "%", "/", "x/", "\x00", "\u2028", "é", MODEL],
        "revision": ["main", "", "../x", "\x00"],
    }
    return st.sampled_from(known[field]) if field in known else st.booleans() | st.integers(0, 9)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def bodies(*fields: str, **always: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of known fields, with values that mostly may stand there."""
    pairs = [st.tuples(st.just(field), plausible(field)) for field in fields]
    odd = st.tuples(st.sampled_from(fields), JSON) | st.tuples(st.text(max_size=8), JSON)
    return st.lists(st.one_of(*pairs, odd), max_size=4).map(lambda some: {**always, **dict(some)})


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[dict[str, Any]]) -> bytes:
    """The text of an object, cut, doubled or with bytes put in."""
    text = bytearray(json.dumps(draw(whole)).encode())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        match draw(st.sampled_from(["put", "cut", "double", "swap"])):
            case "put":
                text[at:at] = draw(
                    st.binary(max_size=4) | st.sampled_from([b"[" * 2000, b'"', b"}"])
                )
            case "cut":
                del text[at : at + draw(st.integers(1, 20))]
            case "double":
                text[at:at] = text[:at]
            case "swap":
                text[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
    return bytes(text)


EMBEDDING = bodies(*EmbeddingRequest.__struct_fields__, model=MODEL, input="a")
ADDING = bodies(*ModelSettings.model_fields, "persist", model="x")


def check(client: httpx.Client, path: str, content: bytes) -> httpx.Response:
    response = client.post(path, content=content)
    assert response.status_code < 500, (content[:1000], response.text)
    if response.status_code >= 400:
        error = response.json()["error"]
        assert error["message"], content[:1000]
    return response


def encoded(body: object) -> bytes:
    return json.dumps(body, allow_nan=True).encode()


@fuzzed
@given(body=EMBEDDING | JSON)
def test_embedding_of_anything(client: httpx.Client, body: object) -> None:
    check(client, "/v1/embeddings", encoded(body))


@fuzzed
@given(content=damaged(EMBEDDING) | st.binary(max_size=200))
def test_embedding_of_damaged_bodies(client: httpx.Client, content: bytes) -> None:
    check(client, "/v1/embeddings", content)


def add(client: httpx.Client, content: bytes) -> None:
    response = check(client, "/api/models", content)
    if response.status_code == 201:
        gone = client.delete(response.headers["location"])
        assert gone.status_code in (200, 202), (content, gone.text)


@fuzzed
@given(body=ADDING | JSON)
def test_adding_anything_as_a_model(client: httpx.Client, body: object) -> None:
    add(client, encoded(body))


@fuzzed
@given(content=damaged(ADDING) | st.binary(max_size=200))
def test_adding_damaged_models(client: httpx.Client, content: bytes) -> None:
    add(client, content)
