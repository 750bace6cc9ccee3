# SPDX-License-Identifier: Apache-2.0
"""Ollama's own Python library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from compat.conformance.checks import expect, expect_equal, expect_raises, expect_same
from compat.conformance.registry import Cases, Group, library
from compat.conformance.samples import TEXTS, UNKNOWN_MODEL, numbered
from compat.conformance.target import Target

cases = Cases("ollama", Group.OLLAMA)

SOME = 25


def place(target: Target) -> dict[str, Any]:
    """Arguments of the library's clients."""
    return {"host": target.root_url, "headers": {"Authorization": f"Bearer {target.sdk_key}"}}


@contextmanager
def _client(target: Target) -> Iterator[Any]:
    client = library("ollama").Client(**place(target))
    try:
        yield client
    finally:
        client._client.close()


@cases
def embed(target: Target) -> None:
    """Texts have the vectors of their texts, in order; tokens are counted."""
    texts = numbered(SOME)
    with _client(target) as client:
        answer = client.embed(target.model, texts)
    expect_same(answer.embeddings, target.embed(texts), target.least_cosine)
    expect_equal("model", answer.model, target.model)
    expect(answer.prompt_eval_count >= len(texts), "prompt_eval_count is too small")
    expect(answer.total_duration > 0, "total_duration is not told")


@cases
def embed_one(target: Target) -> None:
    """A bare text gives one vector, in a list."""
    with _client(target) as client:
        answer = client.embed(target.model, TEXTS[0])
    expect_same(answer.embeddings, target.embed(TEXTS[0]), target.least_cosine)


@cases
def dimensions(target: Target) -> None:
    """Vectors can be had shorter."""
    size = target.size // 2
    with _client(target) as client:
        answer = client.embed(target.model, TEXTS, dimensions=size)
    wanted = target.embed(TEXTS, dimensions=size)
    expect_same(answer.embeddings, wanted, target.least_cosine)


@cases
def too_long_text(target: Target) -> None:
    """A text that is too long is cut, unless truncate is false."""
    wanted = target.embed_extended(target.too_long, truncate=True)
    with _client(target) as client:
        answer = client.embed(target.model, target.too_long)
        error = expect_raises(
            library("ollama").ResponseError,
            lambda: client.embed(target.model, target.too_long, truncate=False),
        )
    expect_same(answer.embeddings, wanted, target.least_cosine)
    expect_equal("status", error.status_code, 400)


@cases
def embeddings(target: Target) -> None:
    """The older route gives a text's vector, perhaps of another length."""
    with _client(target) as client:
        vector = np.array(client.embeddings(target.model, TEXTS[0]).embedding)
    length = float(np.linalg.norm(vector))
    expect(length > 0, "the vector is zero")
    expect_same(vector / length, target.embed(TEXTS[0]), target.least_cosine)


@cases
def list_models(target: Target) -> None:
    """The library lists the model."""
    with _client(target) as client:
        names = {model.model for model in client.list().models}
    expect(bool(names & _spellings(target.model)), f"the models are {', '.join(sorted(names))}")


@cases
def ps(target: Target) -> None:
    """A model that has just been used is listed as running, with the time that it stays."""
    with _client(target) as client:
        client.embed(target.model, TEXTS[0], keep_alive="10m")
        running = {model.model: model for model in client.ps().models}
    found = running.keys() & _spellings(target.model)
    expect(bool(found), f"running are {', '.join(sorted(running)) or 'none'}")
    expect(running[found.pop()].expires_at is not None, "expires_at is not told")


def _spellings(model: str) -> set[str]:
    return {model, f"{model}:latest"}


@cases
def unknown_model(target: Target) -> None:
    """An unknown model raises ResponseError with status 404."""
    with _client(target) as client:
        error = expect_raises(
            library("ollama").ResponseError, lambda: client.embed(UNKNOWN_MODEL, TEXTS[0])
        )
    expect_equal("status", error.status_code, 404)
    expect(UNKNOWN_MODEL in error.error, f"the message is {error.error}")


@cases
async def asynchronous(target: Target) -> None:
    """Texts can be awaited."""
    client = library("ollama").AsyncClient(**place(target))
    answer = await client.embed(target.model, TEXTS)
    await client._client.aclose()
    expect_same(answer.embeddings, target.embed(TEXTS), target.least_cosine)
