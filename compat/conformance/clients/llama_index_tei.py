# SPDX-License-Identifier: Apache-2.0
"""LlamaIndex's ``TextEmbeddingsInference``, which posts ten texts at a time to ``/embed``."""

from __future__ import annotations

from typing import Any

from compat.conformance.checks import expect_same
from compat.conformance.registry import Cases, Group, library
from compat.conformance.samples import TEXTS, numbered
from compat.conformance.target import Target

cases = Cases("llama-index-tei", Group.TEI)

SOME = 25


def _embedding(target: Target, **options: Any) -> Any:
    return library("llama_index.embeddings.text_embeddings_inference").TextEmbeddingsInference(
        model_name=target.model, base_url=target.model_url, auth_token=target.sdk_key, **options
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
    texts = numbered(SOME)
    vectors = _embedding(target).get_text_embedding_batch(texts)
    expect_same(vectors, target.embed(texts), target.least_cosine)


@cases
def too_long_text(target: Target) -> None:
    """A text that is too long is cut, as the class asks for unless told otherwise."""
    wanted = target.embed_extended(target.too_long, truncate=True)
    vector = _embedding(target).get_text_embedding(target.too_long)
    expect_same(vector, wanted, target.least_cosine)


@cases
async def asynchronous(target: Target) -> None:
    """Texts can be awaited."""
    texts = numbered(SOME)
    vectors = await _embedding(target).aget_text_embedding_batch(texts)
    expect_same(vectors, target.embed(texts), target.least_cosine)
