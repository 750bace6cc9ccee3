# SPDX-License-Identifier: Apache-2.0
"""Sparse vectors on OpenAI's route, also through OpenAI's own libraries."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from appliance.engine.types import SparseRow
from appliance.settings import ModelSettings, Settings
from compat.rendering import render_sparse
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import FakeBackend, FakeTokenizer, fake_sparse, loading

SPARSE, DENSE = "fake/splade", "fake/model"
TEXTS = ["one two two", "three", "..."]
NODE = Path(__file__).parents[2] / "compat" / "conformance" / "node"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    def make(model: ModelSettings) -> FakeBackend:
        return FakeBackend(kind="sparse" if model.name == SPARSE else "embedding")

    models = (ModelSettings(model=SPARSE), ModelSettings(model=DENSE))
    with run_in_thread(Settings(models=models), loading(make)) as started:
        yield started


def expected(text: str) -> list[dict[str, float]]:
    row = fake_sparse(FakeTokenizer().encode([text])[0])
    return [
        {"index": int(index), "value": float(value)}
        for index, value in zip(row.indices, row.values, strict=True)
    ]


def check(data: list[dict[str, Any]]) -> None:
    assert [item["index"] for item in data] == [0, 1, 2]
    assert [item["object"] for item in data] == ["embedding"] * 3
    assert [item["embedding"] for item in data] == [[], [], []]
    assert [item["sparse_embedding"] for item in data] == [expected(text) for text in TEXTS]


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_words_that_count_come_in_place_of_a_vector(
    encoding_format: str, server: RunningServer
) -> None:
    answer = server.embed(
        model=SPARSE, input=TEXTS, output_type="sparse", encoding_format=encoding_format
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    check(body["data"])
    assert body["model"] == SPARSE
    assert body["usage"]["total_tokens"] == 5 + 3 + 3
    assert answer.headers["server-timing"]


def test_a_dense_answer_has_no_trace_of_it(server: RunningServer) -> None:
    plain = server.embed(model=SPARSE, input="a").json()
    assert server.embed(model=SPARSE, input="a", output_type="dense").json() == plain
    assert plain["data"][0].keys() == {"index", "embedding", "object"}


@pytest.mark.parametrize("format_of_sdk", [{}, {"encoding_format": "float"}])
def test_the_sdk_for_python_passes_it_through(
    format_of_sdk: dict[str, Any], server: RunningServer
) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    answer = client.embeddings.create(
        model=SPARSE, input=TEXTS, extra_body={"output_type": "sparse"}, **format_of_sdk
    )
    check([item.model_dump() for item in answer.data])


@pytest.mark.skipif(
    not (shutil.which("node") and (NODE / "node_modules" / "openai").is_dir()),
    reason="OpenAI's library for JavaScript is not installed",
)
@pytest.mark.parametrize("format_of_sdk", [{}, {"encoding_format": "float"}])
def test_the_sdk_for_javascript_passes_it_through(
    format_of_sdk: dict[str, Any], server: RunningServer
) -> None:
    body = json.dumps({"model": SPARSE, "input": TEXTS, "output_type": "sparse", **format_of_sdk})
    script = f"""
        import OpenAI from "openai";
        const client = new OpenAI({{ baseURL: "{server.url}/v1", apiKey: "none" }});
        const answer = await client.embeddings.create({body});
        console.log(JSON.stringify(answer.data));
    """
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script],
        cwd=NODE,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"dimensions": 4}, "dimensions"),
        ({"output_dtype": "int8"}, "output_dtype"),
        ({"normalize": True}, "normalize"),
    ],
)
def test_what_only_dense_vectors_have_is_refused(
    body: dict[str, object], param: str, server: RunningServer
) -> None:
    answer = server.embed(model=SPARSE, input="a", output_type="sparse", **body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert "sparse" in error["message"]


def test_a_model_without_sparse_vectors_refuses(server: RunningServer) -> None:
    answer = server.embed(model=DENSE, input="a", output_type="sparse")
    assert answer.status_code == 400
    assert DENSE in answer.json()["error"]["message"]


def test_other_types_are_refused(server: RunningServer) -> None:
    answer = server.embed(model=SPARSE, input="a", output_type="both")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "output_type"


def test_it_works_under_the_models_own_path(server: RunningServer) -> None:
    body = {"input": TEXTS, "output_type": "sparse"}
    answer = httpx.post(f"{server.url}/{SPARSE}/v1/embeddings", json=body)
    check(answer.json()["data"])


def test_numbers_are_written_exactly() -> None:
    generator = np.random.default_rng(0)
    row = SparseRow(
        np.arange(30_000, dtype=np.int32),
        generator.lognormal(size=30_000).astype(np.float32),
    )
    read = json.loads(bytes(render_sparse(row)))
    assert [word["index"] for word in read] == list(range(30_000))
    np.testing.assert_array_equal(
        np.array([word["value"] for word in read], dtype=np.float32), row.values
    )
    empty = SparseRow(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32))
    assert bytes(render_sparse(empty)) == b"[]"
