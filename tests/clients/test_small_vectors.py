# SPDX-License-Identifier: Apache-2.0
"""Small vectors of the real model are as good as the README says, and arrive as it says."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from openai import OpenAI

from appliance.engine.calibration import read_calibration
from appliance.engine.types import OutputDtype
from appliance.engine.vectors import finish_vectors, ranges_of
from tests.conftest import REAL_MODEL, RunningServer

ROOT = Path(__file__).parents[2]
QUERIES = 60
NEAREST = 10

DOCUMENTS = {
    "How do I get my money back?": "Refunds are paid within fourteen days of the return.",
    "opening hours on Sunday": "At weekends the shop is open from ten to four.",
    "My parcel never came": "A lost shipment is replaced once the carrier confirms the loss.",
    "Is there a vegan menu?": "Half of our dishes contain no meat, milk or eggs.",
    "reset password": "Choose 'forgotten' at the login to be sent a new secret word.",
    "Can I bring my dog?": "Pets are welcome on the terrace, but not indoors.",
}


def docstrings() -> list[str]:
    """Sentences about this project: texts that the calibration does not know."""
    found: dict[str, None] = {}
    for path in sorted([*ROOT.glob("appliance/**/*.py"), *ROOT.glob("compat/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                found[(ast.get_docstring(node) or "").partition("\n")[0]] = None
    return [text for text in found if len(text.split()) >= 5]


def embed(server: RunningServer, texts: list[str], output_dtype: OutputDtype) -> np.ndarray:
    parts = [
        server.embed(
            model=REAL_MODEL,
            input=texts[start : start + 128],
            output_dtype=output_dtype,
            truncate=True,
        ).json()["data"]
        for start in range(0, len(texts), 128)
    ]
    kind = np.float32 if output_dtype == "float" else np.int32
    return np.array([item["embedding"] for part in parts for item in part], dtype=kind)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    found = docstrings()
    assert len(found) > 400
    return found[:400]


@pytest.fixture(scope="module")
def exact(real_server: RunningServer, texts: list[str]) -> np.ndarray:
    return embed(real_server, texts, "float")


@pytest.fixture(scope="module")
def small(real_server: RunningServer, texts: list[str]) -> dict[OutputDtype, np.ndarray]:
    kinds: tuple[OutputDtype, ...] = ("int8", "uint8", "ubinary")
    return {kind: embed(real_server, texts, kind) for kind in kinds}


@pytest.fixture(scope="module")
def ranges(real_server: RunningServer) -> np.ndarray:
    corpus = [str(text) for text in read_calibration(None)]
    return ranges_of(embed(real_server, corpus, "float"), dimensions=None, normalize=True)


def share_found(exact: np.ndarray, scores: np.ndarray) -> float:
    """Share of the nearest documents by ``exact`` that are also the nearest by ``scores``."""
    right = np.argsort(-(exact[:QUERIES] @ exact[QUERIES:].T), axis=1)[:, :NEAREST]
    found = np.argsort(-scores, axis=1)[:, :NEAREST]
    pairs = zip(right.tolist(), found.tolist(), strict=True)
    return float(np.mean([len(set(one) & set(other)) for one, other in pairs]) / NEAREST)


def negative_distances(vectors: np.ndarray) -> np.ndarray:
    return -np.linalg.norm(vectors[:QUERIES, None] - vectors[None, QUERIES:], axis=2)


def negative_hamming(packed: np.ndarray) -> np.ndarray:
    bits = np.unpackbits(packed.astype(np.uint8), axis=1)
    return -(bits[:QUERIES, None] != bits[None, QUERIES:]).sum(axis=2)


def test_int8_can_be_turned_back_into_nearly_the_same_vectors(
    small: dict[OutputDtype, np.ndarray], exact: np.ndarray, ranges: np.ndarray
) -> None:
    start, end = ranges
    for steps in (small["int8"] + 128, small["uint8"]):
        restored = start + (steps + 0.5) * (end - start) / 255
        cosines = (restored * exact).sum(axis=1) / np.linalg.norm(restored, axis=1)
        assert cosines.min() >= 0.99


@pytest.mark.parametrize("output_dtype", ["int8", "uint8"])
def test_neighbours_by_euclidean_distance(
    small: dict[OutputDtype, np.ndarray], exact: np.ndarray, output_dtype: OutputDtype
) -> None:
    steps = small[output_dtype].astype(np.float32)
    assert share_found(exact, negative_distances(steps)) >= 0.88


def test_neighbours_by_dot_product_with_the_same_range_for_all_dimensions(
    exact: np.ndarray,
) -> None:
    ranges = np.array([[-0.2] * exact.shape[1], [0.2] * exact.shape[1]], dtype=np.float32)
    steps = finish_vectors(
        exact, dimensions=None, normalize=True, output_dtype="int8", ranges=ranges
    ).astype(np.int32)
    assert share_found(exact, steps[:QUERIES] @ steps[QUERIES:].T) >= 0.96


def test_neighbours_by_hamming_distance_scored_again(
    small: dict[OutputDtype, np.ndarray], exact: np.ndarray
) -> None:
    near = negative_hamming(small["ubinary"])
    candidates = np.argsort(-near, axis=1, kind="stable")[:, : 4 * NEAREST]
    scores = np.full(near.shape, -1.0)
    rescored = np.take_along_axis(exact[:QUERIES] @ exact[QUERIES:].T, candidates, axis=1)
    np.put_along_axis(scores, candidates, rescored, axis=1)
    assert share_found(exact, scores) >= 0.9


@pytest.mark.parametrize("output_dtype", ["int8", "uint8", "binary", "ubinary"])
def test_the_answer_to_a_question_is_still_the_nearest(
    real_server: RunningServer, output_dtype: OutputDtype
) -> None:
    vectors = embed(real_server, [*DOCUMENTS, *DOCUMENTS.values()], output_dtype)
    if output_dtype.endswith("binary"):
        offset = 128 if output_dtype == "binary" else 0
        vectors = np.unpackbits((vectors + offset).astype(np.uint8), axis=1).astype(np.int32)
    questions, answers = np.split(vectors, 2)
    distances = np.linalg.norm(questions[:, None] - answers[None], axis=2)
    assert distances.argmin(axis=1).tolist() == list(range(len(DOCUMENTS)))


@pytest.fixture
def client(real_server: RunningServer) -> OpenAI:
    return OpenAI(base_url=f"{real_server.url}/v1", api_key="none")


@pytest.mark.parametrize(
    "options",
    [
        {"encoding_format": "float", "extra_body": {"output_dtype": "int8"}},
        {"extra_body": {"output_dtype": "int8", "encoding_format": "float"}},
    ],
    ids=["argument", "extra_body"],
)
def test_openais_library_reads_whole_numbers_where_encoding_format_is_said(
    real_server: RunningServer, client: OpenAI, options: dict[str, object]
) -> None:
    answer = client.embeddings.create(model=REAL_MODEL, input="a", **options)
    # Its own types say float, so it makes floats of them.
    numbers = np.array(answer.data[0].embedding)
    np.testing.assert_array_equal(numbers.astype(np.int8), numbers)
    assert numbers.tolist() == embed(real_server, ["a"], "int8")[0].tolist()


def test_openais_library_takes_bytes_for_float32_where_it_is_not(client: OpenAI) -> None:
    """The trap that the README warns of. Should this fail, the library has closed it."""
    answer = client.embeddings.create(
        model=REAL_MODEL, input="a", extra_body={"output_dtype": "int8"}
    )
    assert len(answer.data[0].embedding) == 384 / 4
    with pytest.raises(ValueError, match="multiple of element size"):
        client.embeddings.create(
            model=REAL_MODEL, input="a", dimensions=13, extra_body={"output_dtype": "int8"}
        )
