# SPDX-License-Identifier: Apache-2.0
"""LlamaIndex's ``OllamaEmbedding``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from compat.conformance.checks import expect_same
from compat.conformance.registry import Cases, Group, library
from compat.conformance.samples import TEXTS, numbered
from compat.conformance.target import Target

cases = Cases("llama-index-ollama", Group.OLLAMA)

SOME = 25


@contextmanager
def _embedding(target: Target) -> Iterator[Any]:
    embedding = library("llama_index.embeddings.ollama").OllamaEmbedding(
        model_name=target.model,
        base_url=target.root_url,
        client_kwargs={"headers": {"Authorization": f"Bearer {target.sdk_key}"}},
    )
    try:
        yield embedding
    finally:
        embedding._client._client.close()


@cases
def single(target: Target) -> None:
    """A text and a query have the vector of their text."""
    wanted = target.embed(TEXTS[0])
    with _embedding(target) as embedding:
        expect_same(embedding.get_text_embedding(TEXTS[0]), wanted, target.least_cosine)
        expect_same(embedding.get_query_embedding(TEXTS[0]), wanted, target.least_cosine)


@cases
def batch(target: Target) -> None:
    """Texts have the vectors of their texts, in order, over several requests."""
    texts = numbered(SOME)
    with _embedding(target) as embedding:
        vectors = embedding.get_text_embedding_batch(texts)
    expect_same(vectors, target.embed(texts), target.least_cosine)


@cases
async def asynchronous(target: Target) -> None:
    """Texts can be awaited."""
    texts = numbered(SOME)
    with _embedding(target) as embedding:
        vectors = await embedding.aget_text_embedding_batch(texts)
        await embedding._async_client._client.aclose()
    expect_same(vectors, target.embed(texts), target.least_cosine)
