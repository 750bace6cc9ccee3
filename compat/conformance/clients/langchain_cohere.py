# SPDX-License-Identifier: Apache-2.0
"""LangChain's ``CohereEmbeddings``, of API version 1, and ``CohereRerank``, of version 2."""

from __future__ import annotations

from typing import Any

from compat.conformance.checks import expect_equal, expect_same, expect_scores
from compat.conformance.registry import Cases, Group, library
from compat.conformance.samples import QUESTION, TEXTS
from compat.conformance.target import Target

cases = Cases("langchain-cohere", Group.COHERE)


def _embeddings(target: Target) -> Any:
    return library("langchain_cohere").CohereEmbeddings(
        model=target.model, cohere_api_key=target.sdk_key, base_url=target.root_url, max_retries=1
    )


@cases
def embed_query(target: Target) -> None:
    """A query has the vector of a query."""
    embeddings = _embeddings(target)
    with embeddings.client:
        vector = embeddings.embed_query(TEXTS[0])
    wanted = target.embed_extended(TEXTS[0], input_type="query")
    expect_same(vector, wanted, target.least_cosine)


@cases
def embed_documents(target: Target) -> None:
    """Documents have the vectors of their texts, in order."""
    embeddings = _embeddings(target)
    with embeddings.client:
        vectors = embeddings.embed_documents(TEXTS)
    wanted = target.embed_extended(TEXTS, input_type="document")
    expect_same(vectors, wanted, target.least_cosine)


@cases.of(Group.RERANK)
def rerank(target: Target) -> None:
    """Texts are sorted by how well they answer a question."""
    wanted = target.rank(QUESTION, TEXTS)
    reranker = library("langchain_cohere").CohereRerank(
        model=target.rerank_model, cohere_api_key=target.sdk_key, base_url=target.root_url
    )
    with reranker.client:
        results = reranker.rerank(TEXTS, QUESTION)
    expect_equal("results", len(results), len(TEXTS))
    scores = [result["relevance_score"] for result in results]
    expect_scores(scores, [wanted[result["index"]] for result in results])
