# SPDX-License-Identifier: Apache-2.0
"""The server under test."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import httpx
import numpy as np

from compat.conformance.checks import (
    Mismatch,
    NotOffered,
    Vectors,
    expect,
    expect_equal,
    read_json,
    vectors_of,
)

__all__ = ["SMALL_NUMBERS", "Target"]

VERSION_PATH = "/v1"
TIMEOUT_SECONDS = 120.0
LEAST_COSINE = 0.99999

SMALL_NUMBERS = {"int8": np.int8, "uint8": np.uint8, "binary": np.int8, "ubinary": np.uint8}
"""Values of ``output_dtype``, and the numbers that they stand for."""

# Most words first would make a model that reads long texts work for minutes.
_WORD_COUNTS = (600, 9_000, 40_000, 140_000)

# How servers refuse a field that they do not know.
_REFUSALS = ("unrecognized", "unknown", "extra inputs", "extra fields", "unexpected")


class Target:
    """A server, and what cases ask it with bare HTTP.

    Args:
        base_url: Where it is, with or without ``/v1``.
        model: Name of the model to ask for. Unset: the first that the server lists.
        api_key: Bearer key, where the server wants one.
        least_cosine: Least cosine between two vectors that count as the same.
        rerank_model: Name of the model that sorts texts. Unset: none does.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        api_key: str | None = None,
        least_cosine: float = LEAST_COSINE,
        rerank_model: str | None = None,
    ) -> None:
        self.root_url = base_url.rstrip("/").removesuffix(VERSION_PATH)
        self.base_url = self.root_url + VERSION_PATH
        self.api_key = api_key
        self.least_cosine = least_cosine
        self.rerank_model = rerank_model
        self._model = model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    @property
    def sdk_key(self) -> str:
        """A key for clients that insist on one."""
        return self.api_key or "no-key-needed"

    @cached_property
    def http(self) -> httpx.Client:
        """Bare HTTP, with paths relative to the base URL."""
        headers = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=TIMEOUT_SECONDS)

    @cached_property
    def model(self) -> str:
        """Name of the model to ask for."""
        return self._model or self.listed_models()[0]

    @cached_property
    def model_url(self) -> str:
        """Where clients that name no model reach this one: the root, or a path of its own."""
        response = self.http.get("/models")
        listed = response.json()["data"] if response.is_success else []
        first = listed[0]["id"] if listed else self.model  # a server of one model lists none
        return self.root_url if first == self.model else f"{self.root_url}/{self.model}"

    @cached_property
    def size(self) -> int:
        """Length of the model's vectors."""
        return len(self.embed(["How long is a vector?"])[0])

    @cached_property
    def too_long(self) -> str:
        """A text that the model refuses to read, or the longest there is if it takes them all."""
        text = ""
        for count in _WORD_COUNTS:
            text = "word " * count
            if not self.post({"input": text}).is_success:
                break
        return text

    def listed_models(self) -> list[str]:
        """Names that the server lists.

        Raises:
            Mismatch: There are none.
        """
        response = self.http.get("/models")
        expect_equal("status of GET /v1/models", response.status_code, httpx.codes.OK)
        names = [str(item["id"]) for item in read_json(response)["data"]]
        expect(bool(names), "the server lists no model")
        return names

    def offers(self, path: str) -> bool:
        """Whether the server has a route, at its root. What it answers there does not matter."""
        return self.http.get(self.root_url + path).status_code != httpx.codes.NOT_FOUND

    def post(self, body: dict[str, Any], path: str = "/embeddings") -> httpx.Response:
        """Send a body, to which the model's name is added unless it has one."""
        return self.http.post(path, json={"model": self.model, **body})

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """Send a body that the server must accept.

        Raises:
            Mismatch: It does not.
        """
        return _accepted(self.post(body))

    def embed(self, texts: str | Sequence[object], **fields: Any) -> Vectors:
        """Embed texts in the plainest way there is: a list of texts for lists of numbers."""
        body = {"input": texts, "encoding_format": "float", **fields}
        return vectors_of(self.answer(body)["data"])

    def cosines(self, text: str, others: Sequence[str]) -> list[float]:
        """Cosine of a text's vector with each of the others'."""
        vectors = self.embed([text, *others])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return [float(cosine) for cosine in vectors[1:] @ vectors[0]]

    def rank(self, query: str, texts: Sequence[str]) -> list[float]:
        """How well each text answers a question, in the order of the texts.

        Raises:
            NotOffered: The server has no model that sorts texts.
        """
        if self.rerank_model is None:
            raise NotOffered("no --rerank-model is named")
        body = {"model": self.rerank_model, "query": query, "documents": texts}
        results = _accepted(self.post(body, "/rerank"))["results"]
        scores = {result["index"]: float(result["relevance_score"]) for result in results}
        return [scores[index] for index in range(len(texts))]

    def extended(self, body: dict[str, Any]) -> httpx.Response:
        """Send a body with a field of ours.

        Raises:
            NotOffered: The server does not know the field.
        """
        response = self.post({"encoding_format": "float", **body})
        refused = response.status_code in (httpx.codes.BAD_REQUEST, 422)
        if refused and any(words in response.text.lower() for words in _REFUSALS):
            raise NotOffered(f"refused: {response.text[:200]}")
        return response

    def embed_extended(self, texts: str | Sequence[object], **fields: Any) -> Vectors:
        """Embed texts with a field of ours.

        Raises:
            NotOffered: The server does not know the field.
        """
        return vectors_of(_accepted(self.extended({"input": texts, **fields}))["data"])

    def embed_small(
        self, texts: str | Sequence[object], output_dtype: str, **fields: Any
    ) -> Vectors:
        """Embed texts as small whole numbers.

        Raises:
            NotOffered: The server does not know the field, or passes it over.
            Mismatch: The numbers are out of range.
        """
        vectors = self.embed_extended(texts, output_dtype=output_dtype, **fields)
        if not np.equal(vectors, np.round(vectors)).all():
            raise NotOffered("output_dtype is passed over")
        limits = np.iinfo(SMALL_NUMBERS[output_dtype])
        least, greatest = vectors.min(), vectors.max()
        expect(
            bool(limits.min <= least and greatest <= limits.max),
            f"numbers go from {least:.0f} to {greatest:.0f}, which {limits.dtype} does not",
        )
        return vectors


def _accepted(response: httpx.Response) -> dict[str, Any]:
    if response.status_code != httpx.codes.OK:
        raise Mismatch(f"status is {response.status_code}: {response.text[:200]}")
    content: dict[str, Any] = read_json(response)
    return content
