# SPDX-License-Identifier: Apache-2.0
"""LlamaIndex's two classes for OpenAI's API.

As with LangChain, asynchronous cases lend them a client that can be closed.
"""

from __future__ import annotations

from typing import Any

from compat.conformance.checks import expect_equal, expect_raises, expect_same
from compat.conformance.registry import Cases, library
from compat.conformance.samples import TEXTS, UNKNOWN_MODEL, numbered
from compat.conformance.target import Target

cases = Cases("llama-index")

# More than the classes send in one request: 100 and 10.
MANY = 150
SOME = 25


def _embedding(target: Target, **options: Any) -> Any:
    return library("llama_index.embeddings.openai").OpenAIEmbedding(
        **{"model_name": target.model, **options},
        api_base=target.base_url,
        api_key=target.sdk_key,
    )


def _like(target: Target, **options: Any) -> Any:
    return library("llama_index.embeddings.openai_like").OpenAILikeEmbedding(
        model_name=target.model, api_base=target.base_url, api_key=target.sdk_key, **options
    )


@cases
def single(target: Target) -> None:
    """A text and a query have the vector of their text."""
    embedding = _embedding(target)
    wanted = target.embed(TEXTS[0])
    expect_same(embedding.get_text_embedding(TEXTS[0]), wanted, target.least_cosine)
    expect_same(embedding.get_query_embedding(TEXTS[0]), wanted, target.least_cosine)


@cases
def batch(target: Target) -> None:
    """Texts have the vectors of their texts, in order, over several requests."""
    texts = numbered(MANY)
    vectors = _embedding(target).get_text_embedding_batch(texts)
    expect_same(vectors, target.embed(texts), target.least_cosine)


@cases
async def asynchronous(target: Target) -> None:
    """So they have when they are awaited."""
    texts = numbered(SOME)
    async with library("openai").DefaultAsyncHttpxClient() as client:
        embedding = _embedding(target, async_http_client=client)
        alone = await embedding.aget_text_embedding(TEXTS[0])
        together = await embedding.aget_text_embedding_batch(texts)
    expect_same(alone, target.embed(TEXTS[0]), target.least_cosine)
    expect_same(together, target.embed(texts), target.least_cosine)


@cases
def dimensions(target: Target) -> None:
    """Vectors can be had shorter."""
    size = target.size // 2
    vectors = _embedding(target, dimensions=size).get_text_embedding_batch(TEXTS)
    expect_same(vectors, target.embed(TEXTS, dimensions=size), target.least_cosine)


@cases
def unknown_model(target: Target) -> None:
    """An unknown model raises the SDK's NotFoundError at once, with no second try."""
    embedding = _embedding(target, model_name=UNKNOWN_MODEL)
    error = expect_raises(
        library("openai").NotFoundError, lambda: embedding.get_text_embedding(TEXTS[0])
    )
    expect_equal("code", error.code, "model_not_found")


@cases
def like_single(target: Target) -> None:
    """OpenAILikeEmbedding gives the vector of a text."""
    vector = _like(target).get_text_embedding(TEXTS[0])
    expect_same(vector, target.embed(TEXTS[0]), target.least_cosine)


@cases
def like_batch(target: Target) -> None:
    """OpenAILikeEmbedding gives the vectors of texts, in order."""
    texts = numbered(SOME)
    vectors = _like(target).get_text_embedding_batch(texts)
    expect_same(vectors, target.embed(texts), target.least_cosine)


@cases
async def like_asynchronous(target: Target) -> None:
    """OpenAILikeEmbedding can be awaited."""
    texts = numbered(SOME)
    async with library("openai").DefaultAsyncHttpxClient() as client:
        vectors = await _like(target, async_http_client=client).aget_text_embedding_batch(texts)
    expect_same(vectors, target.embed(texts), target.least_cosine)
