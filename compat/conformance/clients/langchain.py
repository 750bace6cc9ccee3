# SPDX-License-Identifier: Apache-2.0
"""LangChain's ``OpenAIEmbeddings``, which sends token ids of ``cl100k_base`` unless told not to.

It has no way to close a client of its own; asynchronous cases give it the same one to share, since
connections have to be closed before their event loop is.
"""

from __future__ import annotations

from typing import Any

from compat.conformance.checks import expect, expect_same
from compat.conformance.registry import Cases, library
from compat.conformance.samples import TEXTS, numbered
from compat.conformance.target import Target

cases = Cases("langchain")

CHUNK = 50
MANY = 120


def _embeddings(target: Target, **options: Any) -> Any:
    return library("langchain_openai").OpenAIEmbeddings(
        model=target.model, base_url=target.base_url, api_key=target.sdk_key, **options
    )


class _Recorder:
    """Stands before a client's ``create`` and keeps what was asked of it."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.inputs: list[Any] = []

    def create(self, **fields: Any) -> Any:
        self.inputs.append(fields["input"])
        return self._client.create(**fields)


@cases
def embed_query(target: Target) -> None:
    """A query has the vector of its text."""
    vector = _embeddings(target).embed_query(TEXTS[0])
    expect_same(vector, target.embed(TEXTS[0]), target.least_cosine)


@cases
def embed_documents(target: Target) -> None:
    """Documents have the vectors of their texts."""
    vectors = _embeddings(target).embed_documents(TEXTS)
    expect_same(vectors, target.embed(TEXTS), target.least_cosine)


@cases
def embed_many_documents(target: Target) -> None:
    """So they have when they take several requests."""
    texts = numbered(MANY)
    vectors = _embeddings(target, chunk_size=CHUNK).embed_documents(texts)
    expect_same(vectors, target.embed(texts), target.least_cosine)


@cases
def token_ids_are_sent(target: Target) -> None:
    """It is token ids that are sent, so the cases above are about them."""
    embeddings = _embeddings(target)
    embeddings.client = recorder = _Recorder(embeddings.client)
    embeddings.embed_documents(TEXTS)
    sent = [item for batch in recorder.inputs for item in batch]
    expect(
        bool(sent) and all(isinstance(token, int) for item in sent for token in item),
        f"what was sent is {str(sent)[:200]}",
    )


@cases
def without_context_check(target: Target) -> None:
    """With check_embedding_ctx_length=False texts are sent, with the same result."""
    embeddings = _embeddings(target, check_embedding_ctx_length=False)
    embeddings.client = recorder = _Recorder(embeddings.client)
    vectors = embeddings.embed_documents(TEXTS)
    expect(recorder.inputs == [TEXTS], f"what was sent is {str(recorder.inputs)[:200]}")
    expect_same(vectors, target.embed(TEXTS), target.least_cosine)


@cases
def dimensions(target: Target) -> None:
    """Vectors can be had shorter."""
    size = target.size // 2
    vectors = _embeddings(target, dimensions=size).embed_documents(TEXTS)
    expect_same(vectors, target.embed(TEXTS, dimensions=size), target.least_cosine)


@cases
async def aembed_query(target: Target) -> None:
    """A query can be awaited."""
    async with library("openai").DefaultAsyncHttpxClient() as client:
        vector = await _embeddings(target, http_async_client=client).aembed_query(TEXTS[0])
    expect_same(vector, target.embed(TEXTS[0]), target.least_cosine)


@cases
async def aembed_documents(target: Target) -> None:
    """Documents can be awaited, with and without token ids."""
    wanted = target.embed(TEXTS)
    async with library("openai").DefaultAsyncHttpxClient() as client:
        for check in (True, False):
            embeddings = _embeddings(
                target, check_embedding_ctx_length=check, http_async_client=client
            )
            vectors = await embeddings.aembed_documents(TEXTS)
            expect_same(vectors, wanted, target.least_cosine)
