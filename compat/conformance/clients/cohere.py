# SPDX-License-Identifier: Apache-2.0
"""Cohere's own Python library: its client of today, and the one before."""

from __future__ import annotations

from typing import Any

import numpy as np

from compat.conformance.checks import (
    expect,
    expect_equal,
    expect_raises,
    expect_same,
    expect_scores,
    expect_steps,
)
from compat.conformance.registry import Cases, Group, library
from compat.conformance.samples import QUESTION, TEXTS, UNKNOWN_MODEL, numbered
from compat.conformance.target import Target

cases = Cases("cohere", Group.COHERE)

# More than the library sends in one request, 96.
MANY = 100

# A number near zero may turn out on its other side when its text is embedded again.
SAME_BYTES = 0.9


def _client(target: Target, kind: str = "ClientV2") -> Any:
    return getattr(library("cohere"), kind)(api_key=target.sdk_key, base_url=target.root_url)


def _fields(target: Target, texts: list[str], **fields: Any) -> dict[str, Any]:
    return {
        "model": target.model,
        "texts": texts,
        "input_type": "search_document",
        "embedding_types": ["float"],
        **fields,
    }


@cases
def embed(target: Target) -> None:
    """Texts have the vectors of their texts, in order, over several requests."""
    texts = numbered(MANY)
    with _client(target) as client:
        answer = client.embed(**_fields(target, texts))
    wanted = target.embed_extended(texts, input_type="document")
    expect_same(answer.embeddings.float_, wanted, target.least_cosine)
    expect_equal("texts", answer.texts, texts)


@cases
def input_type(target: Target) -> None:
    """A search's query has the vector of a query."""
    with _client(target) as client:
        answer = client.embed(**_fields(target, TEXTS, input_type="search_query"))
    wanted = target.embed_extended(TEXTS, input_type="query")
    expect_same(answer.embeddings.float_, wanted, target.least_cosine)


@cases
def embedding_types(target: Target) -> None:
    """Several kinds of numbers come in one answer."""
    kinds = ["float", "int8", "uint8", "binary", "ubinary"]
    with _client(target) as client:
        found = client.embed(**_fields(target, TEXTS, embedding_types=kinds)).embeddings
    wanted = target.embed_extended(TEXTS, input_type="document")
    expect_same(found.float_, wanted, target.least_cosine)
    for kind in ("int8", "uint8"):
        small = np.array(getattr(found, kind), np.float64)
        wanted = target.embed_small(TEXTS, kind, input_type="document")
        expect_steps(small, wanted, kind)
    for kind in ("binary", "ubinary"):
        bits = np.array(getattr(found, kind), np.float64)
        wanted = target.embed_small(TEXTS, kind, input_type="document")
        expect(bool((bits == wanted).mean() > SAME_BYTES), f"{kind} has other bytes")


@cases
def output_dimension(target: Target) -> None:
    """Vectors can be had shorter."""
    size = target.size // 2
    with _client(target) as client:
        answer = client.embed(**_fields(target, TEXTS, output_dimension=size))
    wanted = target.embed_extended(TEXTS, input_type="document", dimensions=size)
    expect_same(answer.embeddings.float_, wanted, target.least_cosine)


@cases
def inputs(target: Target) -> None:
    """Texts may come in the form that pictures do."""
    content = [{"content": [{"type": "text", "text": text}]} for text in TEXTS]
    fields = _fields(target, TEXTS)
    del fields["texts"]
    with _client(target) as client:
        answer = client.embed(**fields, inputs=content)
    wanted = target.embed_extended(TEXTS, input_type="document")
    expect_same(answer.embeddings.float_, wanted, target.least_cosine)


@cases
def too_long_text(target: Target) -> None:
    """A text that is too long is cut, unless truncate is NONE."""
    wanted = target.embed_extended(target.too_long, input_type="document", truncate=True)
    texts = [target.too_long]
    with _client(target) as client:
        answer = client.embed(**_fields(target, texts))
        expect_raises(
            library("cohere").BadRequestError,
            lambda: client.embed(**_fields(target, texts, truncate="NONE")),
        )
    expect_same(answer.embeddings.float_, wanted, target.least_cosine)


@cases
def unknown_model(target: Target) -> None:
    """An unknown model raises NotFoundError, with a message."""
    fields = _fields(target, TEXTS, model=UNKNOWN_MODEL)
    with _client(target) as client:
        error = expect_raises(library("cohere").NotFoundError, lambda: client.embed(**fields))
    expect(UNKNOWN_MODEL in str(error.body), f"the body is {error.body}")


@cases
async def asynchronous(target: Target) -> None:
    """Texts can be awaited."""
    async with _client(target, "AsyncClientV2") as client:
        answer = await client.embed(**_fields(target, TEXTS))
    wanted = target.embed_extended(TEXTS, input_type="document")
    expect_same(answer.embeddings.float_, wanted, target.least_cosine)


@cases
def older_client(target: Target) -> None:
    """The client of API version 1 gives the same vectors, by type or bare."""
    fields = _fields(target, TEXTS)
    with _client(target, "Client") as client:
        typed = client.embed(**fields)
        del fields["embedding_types"]
        bare = client.embed(**fields)
    wanted = target.embed_extended(TEXTS, input_type="document")
    expect_same(typed.embeddings.float_, wanted, target.least_cosine)
    expect_same(bare.embeddings, wanted, target.least_cosine)


@cases.of(Group.RERANK)
def rerank(target: Target) -> None:
    """Texts are sorted by how well they answer a question."""
    wanted = target.rank(QUESTION, TEXTS)
    with _client(target) as client:
        results = client.rerank(model=target.rerank_model, query=QUESTION, documents=TEXTS).results
    scores = [result.relevance_score for result in results]
    expect_equal("scores", scores, sorted(scores, reverse=True))
    expect_scores(scores, [wanted[result.index] for result in results])


@cases.of(Group.RERANK)
def rerank_the_best(target: Target) -> None:
    """Only the best can be asked for."""
    wanted = target.rank(QUESTION, TEXTS)
    with _client(target) as client:
        (best,) = client.rerank(
            model=target.rerank_model, query=QUESTION, documents=TEXTS, top_n=1
        ).results
    expect_scores([best.relevance_score], [max(wanted)])
