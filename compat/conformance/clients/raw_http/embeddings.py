# SPDX-License-Identifier: Apache-2.0
"""``POST /v1/embeddings`` when all is well."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from compat.conformance.checks import (
    Vectors,
    expect,
    expect_equal,
    expect_same,
    expect_unit_length,
)
from compat.conformance.registry import Cases
from compat.conformance.samples import TEXTS, TEXTS_AS_IDS, numbered
from compat.conformance.target import Target

cases = Cases("http")

ORDERED = 100
BYTES_PER_NUMBER = 4


@cases
def input_string(target: Target) -> None:
    """One text, bare, gives one vector in the documented shape."""
    content = target.answer({"input": TEXTS[0]})
    expect_equal("object", content.get("object"), "list")
    expect(isinstance(content.get("model"), str), "the answer does not name its model")
    (item,) = content["data"]
    expect_equal("data[0].object", item.get("object"), "embedding")
    expect_equal("data[0].index", item.get("index"), 0)
    numbers = item["embedding"]
    expect(
        isinstance(numbers, list) and all(isinstance(number, float) for number in numbers),
        "without an encoding_format the vector is not a list of numbers",
    )


@cases
def input_list(target: Target) -> None:
    """A list of texts gives the vectors of its texts."""
    alone = np.vstack([target.embed(text) for text in TEXTS])
    expect_same(target.embed(TEXTS), alone, target.least_cosine)


@cases
def input_token_ids(target: Target) -> None:
    """A list of cl100k_base ids gives the vector of the text they stand for."""
    expect_same(target.embed(TEXTS_AS_IDS[0]), target.embed(TEXTS[0]), target.least_cosine)


@cases
def input_token_id_lists(target: Target) -> None:
    """Lists of cl100k_base ids give the vectors of their texts."""
    expect_same(target.embed(TEXTS_AS_IDS), target.embed(TEXTS), target.least_cosine)


@cases
def order_is_kept(target: Target) -> None:
    """A hundred texts come back in the order they were sent in."""
    texts = numbered(ORDERED)
    vectors = target.embed(texts)
    expect_equal("vectors", len(vectors), ORDERED)
    expect_same(target.embed(texts[::-1]), vectors[::-1], target.least_cosine)
    for position in (0, ORDERED // 2, ORDERED - 1):
        expect_same(target.embed(texts[position]), vectors[position], target.least_cosine)
    scaled = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest = float((scaled @ scaled.T - 2 * np.eye(ORDERED)).max())
    expect(nearest < target.least_cosine, "different texts have the same vector")


@cases
def encoding_float(target: Target) -> None:
    """With encoding_format float the vector is a list of numbers."""
    content = target.answer({"input": TEXTS[0], "encoding_format": "float"})
    expect(isinstance(content["data"][0]["embedding"], list), "the vector is not a list")


@cases
def encoding_base64(target: Target) -> None:
    """With encoding_format base64 it is the same numbers as little-endian float32."""
    expect_same(_from_base64(target, TEXTS), target.embed(TEXTS), target.least_cosine)


@cases
def dimensions(target: Target) -> None:
    """With dimensions the vector is cut, then scaled to unit length again."""
    whole = target.embed(TEXTS)
    for size in (1, whole.shape[1] // 2, whole.shape[1]):
        cut = whole[:, :size] / np.linalg.norm(whole[:, :size], axis=1, keepdims=True)
        expect_same(target.embed(TEXTS, dimensions=size), cut, target.least_cosine)


@cases
def dimensions_in_base64(target: Target) -> None:
    """Cut vectors can be had in base64, too."""
    size = target.size // 2
    wanted = target.embed(TEXTS, dimensions=size)
    expect_same(_from_base64(target, TEXTS, dimensions=size), wanted, target.least_cosine)


def _from_base64(target: Target, texts: list[str], **fields: Any) -> Vectors:
    body = {"input": texts, "encoding_format": "base64", **fields}
    encoded = [item["embedding"] for item in target.answer(body)["data"]]
    expect(all(isinstance(text, str) for text in encoded), "a vector is not text")
    raw = [base64.b64decode(text, validate=True) for text in encoded]
    expect_equal("length of vectors", len({len(row) for row in raw}), 1)
    expect_equal("bytes left over", len(raw[0]) % BYTES_PER_NUMBER, 0)
    return np.array([np.frombuffer(row, "<f4") for row in raw], np.float64)


@cases
def unit_length(target: Target) -> None:
    """Vectors have length 1, however long the text."""
    expect_unit_length(target.embed([*TEXTS, "a", " ".join(TEXTS)]))


@cases
def usage(target: Target) -> None:
    """Usage counts the tokens of all texts, and adds up."""
    alone = [_tokens(target, text) for text in TEXTS]
    expect(min(alone) > 0, f"tokens of single texts are {alone}")
    expect_equal("tokens of all texts", _tokens(target, TEXTS), sum(alone))


def _tokens(target: Target, texts: str | list[str]) -> int:
    counts = target.answer({"input": texts})["usage"]
    expect_equal("usage.total_tokens", counts["total_tokens"], counts["prompt_tokens"])
    return int(counts["total_tokens"])


@cases
def same_text_twice(target: Target) -> None:
    """A text that comes twice in one request has the same vector twice."""
    first, _, second = target.embed([TEXTS[0], TEXTS[1], TEXTS[0]])
    expect_same(first, second, target.least_cosine)


@cases
def texts_of_all_kinds(target: Target) -> None:
    """Other scripts, emoji, line breaks and a NUL are texts like others."""
    texts = [
        "日本語の文章です。",
        "مرحبا بالعالم",
        "🐈\u200d⬛ and 🦜",
        "two\nlines\ttabbed",
        "a\x00b",
    ]
    vectors = target.embed(texts)
    expect_equal("shape", vectors.shape, (len(texts), target.size))
    expect(bool(np.isfinite(vectors).all()), "a number is not finite")


@cases
def user_is_accepted(target: Target) -> None:
    """The field user changes nothing."""
    expect_same(target.embed(TEXTS[0], user="someone"), target.embed(TEXTS[0]), target.least_cosine)


@cases
def headers_on_success(target: Target) -> None:
    """An answer carries its request's id and the time it took."""
    response = target.post({"input": TEXTS[0]})
    expect(response.headers.get("x-request-id", "") != "", "x-request-id is missing")
    milliseconds = response.headers.get("openai-processing-ms", "")
    expect(milliseconds.isdigit(), f"openai-processing-ms is {milliseconds!r}")
    other = target.post({"input": TEXTS[0]}).headers.get("x-request-id")
    expect(response.headers["x-request-id"] != other, "two requests have the same id")
