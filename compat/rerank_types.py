# SPDX-License-Identifier: Apache-2.0
"""What is asked for a ranking and what that is, field by field.

The shape that Jina's and Cohere's APIs have in common; what only one of them knows is ignored.
Wire formats: https://api.jina.ai/redoc#tag/rerank, https://docs.cohere.com/reference/rerank
"""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = [
    "BilledUnits",
    "RankedDocument",
    "RerankDocument",
    "RerankMeta",
    "RerankRequest",
    "RerankResponse",
    "RerankUsage",
]

Text = Annotated[str, msgspec.Meta(extra_json_schema={"minLength": 1})]


class RerankDocument(msgspec.Struct, omit_defaults=True):
    """A document.

    Attributes:
        text: Its text.
    """

    text: Text


class RerankRequest(msgspec.Struct, omit_defaults=True):
    """Documents to rank.

    Attributes:
        query: What they are ranked by.
        documents: The documents, as text or as objects with a ``text``.
        model: Name or alias of a model. Needed, but under a model's own path.
        top_n: How many of the best to answer with; by default all.
        return_documents: Whether the answer repeats the documents.
        truncate: Whether a document that is too long is cut, rather than refused.
    """

    query: Text
    documents: Annotated[
        list[Text | RerankDocument], msgspec.Meta(extra_json_schema={"minItems": 1})
    ]
    model: str | None = None
    top_n: Annotated[int, msgspec.Meta(ge=1)] | None = None
    return_documents: bool | None = None
    truncate: bool | None = None


class RankedDocument(msgspec.Struct, omit_defaults=True):
    """One document, ranked.

    Attributes:
        index: Its position in ``documents``.
        relevance_score: How well it fits the query: of a reranker a number from 0 to 1, of an
            embedding model the cosine of the two vectors.
        document: The document, if that was asked for.
    """

    index: int
    relevance_score: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "number"})]
    document: RerankDocument | None = None


class RerankUsage(msgspec.Struct):
    """What was read.

    Attributes:
        prompt_tokens: Tokens that the model saw, special tokens included.
        total_tokens: The same.
    """

    prompt_tokens: int
    total_tokens: int


class BilledUnits(msgspec.Struct):
    """What Cohere would count.

    Attributes:
        search_units: One for each hundred documents, or part of them.
    """

    search_units: int


class RerankMeta(msgspec.Struct):
    """What Cohere's clients read.

    Attributes:
        billed_units: What Cohere would count.
    """

    billed_units: BilledUnits


class RerankResponse(msgspec.Struct):
    """The documents, the best first.

    Attributes:
        id: Of the answer.
        model: Name of the model, whatever alias was asked for.
        results: The documents.
        usage: What was read.
        meta: What Cohere's clients read.
    """

    id: str
    model: str
    results: list[RankedDocument]
    usage: RerankUsage
    meta: RerankMeta
