# SPDX-License-Identifier: Apache-2.0
"""LangChain's ``OllamaEmbeddings``, which sends all options that there are, most of them null."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from compat.conformance.checks import expect_same
from compat.conformance.registry import Cases, Group, library
from compat.conformance.samples import TEXTS, numbered
from compat.conformance.target import Target

cases = Cases("langchain-ollama", Group.OLLAMA)

SOME = 25


@contextmanager
def _embeddings(target: Target, **options: Any) -> Iterator[Any]:
    embeddings = library("langchain_ollama").OllamaEmbeddings(
        model=target.model,
        base_url=target.root_url,
        client_kwargs={"headers": {"Authorization": f"Bearer {target.sdk_key}"}},
        **options,
    )
    try:
        yield embeddings
    finally:
        embeddings._client._client.close()


@cases
def embed_query(target: Target) -> None:
    """A query has the vector of its text."""
    with _embeddings(target) as embeddings:
        vector = embeddings.embed_query(TEXTS[0])
    expect_same(vector, target.embed(TEXTS[0]), target.least_cosine)


@cases
def embed_documents(target: Target) -> None:
    """Documents have the vectors of their texts, in order."""
    texts = numbered(SOME)
    with _embeddings(target) as embeddings:
        vectors = embeddings.embed_documents(texts)
    expect_same(vectors, target.embed(texts), target.least_cosine)


@cases
def validate_model_on_init(target: Target) -> None:
    """The class finds the model in the list, if it is to look there first."""
    with _embeddings(target, validate_model_on_init=True, keep_alive=600) as embeddings:
        vector = embeddings.embed_query(TEXTS[0])
    expect_same(vector, target.embed(TEXTS[0]), target.least_cosine)


@cases
def dimensions(target: Target) -> None:
    """Vectors can be had shorter."""
    size = target.size // 2
    with _embeddings(target, dimensions=size) as embeddings:
        vectors = embeddings.embed_documents(TEXTS)
    expect_same(vectors, target.embed(TEXTS, dimensions=size), target.least_cosine)


@cases
async def asynchronous(target: Target) -> None:
    """Documents can be awaited."""
    with _embeddings(target) as embeddings:
        vectors = await embeddings.aembed_documents(TEXTS)
        await embeddings._async_client._client.aclose()
    expect_same(vectors, target.embed(TEXTS), target.least_cosine)
