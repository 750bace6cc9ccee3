# SPDX-License-Identifier: Apache-2.0
"""LangChain's ``HuggingFaceEndpointEmbeddings``.

Its ``model`` may not be a URL, so it is lent clients of the Hub's library that have one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from compat.conformance.checks import expect_same
from compat.conformance.clients.huggingface import library_of_the_hub
from compat.conformance.registry import Cases, Group, library
from compat.conformance.samples import TEXTS, numbered
from compat.conformance.target import Target

cases = Cases("langchain-huggingface", Group.TEI)

SOME = 25


@contextmanager
def _embeddings(target: Target) -> Iterator[Any]:
    hub = library_of_the_hub()
    embeddings = library("langchain_huggingface").HuggingFaceEndpointEmbeddings(
        model=target.model, huggingfacehub_api_token=target.sdk_key
    )
    place = {"base_url": target.model_url, "token": target.sdk_key}
    embeddings.client = hub.InferenceClient(**place)
    embeddings.async_client = hub.AsyncInferenceClient(**place)
    try:
        yield embeddings
    finally:
        hub.close_session()


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
async def asynchronous(target: Target) -> None:
    """Both can be awaited."""
    with _embeddings(target) as embeddings:
        async with embeddings.async_client:
            alone = await embeddings.aembed_query(TEXTS[0])
            together = await embeddings.aembed_documents(TEXTS)
    expect_same(alone, target.embed(TEXTS[0]), target.least_cosine)
    expect_same(together, target.embed(TEXTS), target.least_cosine)
