# SPDX-License-Identifier: Apache-2.0
"""What the API of text-embeddings-inference answers, field by field."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = [
    "TeiClassifierType",
    "TeiEmbeddingType",
    "TeiInfo",
    "TeiModelType",
    "TeiPrediction",
    "TeiRank",
    "TeiSparseValue",
    "TeiToken",
    "TeiVertexResponse",
]


def _also(**schema: object) -> msgspec.Meta:
    return msgspec.Meta(extra_json_schema=schema)


# What is JSON already; see compat.tei.rendering.
Number = Annotated[msgspec.Raw, _also(type="number")]
Count = Annotated[msgspec.Raw, _also(type="integer", minimum=0)]
List = Annotated[msgspec.Raw, _also(type="array")]


class TeiSparseValue(msgspec.Struct):
    """One word that counts for a text.

    Attributes:
        index: Its id.
        value: How much it counts.
    """

    index: Count
    value: Number


class TeiPrediction(msgspec.Struct):
    """How well a label fits.

    Attributes:
        score: How well.
        label: Its name.
    """

    score: Number
    label: str


class TeiRank(msgspec.Struct, omit_defaults=True):
    """One text, ranked.

    Attributes:
        index: Position of the text in ``texts``.
        score: How well it fits the query.
        text: The text, if that was asked for.
    """

    index: int
    score: Number
    text: str | None = None


class TeiToken(msgspec.Struct):
    """One token.

    Attributes:
        id: Its id.
        text: The piece of the text that it stands for; of a special token, its own name.
        special: Whether it was added to the text.
        start: The piece's first character; ``None`` of a special token.
        stop: The character behind the piece.
    """

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TeiVertexResponse(msgspec.Struct):
    """What Vertex AI reads.

    Attributes:
        predictions: The answer to each instance.
    """

    predictions: list[List]


class TeiEmbeddingType(msgspec.Struct):
    """What makes vectors.

    Attributes:
        pooling: How the vectors of tokens become one: ``cls``, ``mean``, ``splade`` ...
    """

    pooling: str


class TeiClassifierType(msgspec.Struct):
    """What scores labels.

    Attributes:
        id2label: Names of the labels by id.
        label2id: Their ids by name.
    """

    id2label: dict[str, str]
    label2id: dict[str, int]


class TeiModelType(msgspec.Struct, omit_defaults=True):
    """The model's kind, as the name of the one field that is there.

    Attributes:
        embedding: It makes vectors.
        classifier: It scores several labels.
        reranker: It scores one.
    """

    embedding: TeiEmbeddingType | None = None
    classifier: TeiClassifierType | None = None
    reranker: TeiClassifierType | None = None


class TeiInfo(msgspec.Struct):
    """The model and its limits.

    Attributes:
        model_id: Where it comes from: a hub name or a folder.
        model_sha: The hub's commit of its files, if they came from there.
        model_dtype: The number format that it computes in.
        served_model_name: Its name here.
        model_type: Its kind.
        max_concurrent_requests: Requests that may be under way at once.
        max_input_length: Tokens of the longest text that it reads.
        max_batch_tokens: Tokens of the largest batch.
        max_batch_requests: Texts of the largest batch, if that is bounded.
        max_client_batch_size: Texts that one request may have.
        auto_truncate: Whether texts that are too long are cut where a request does not say.
        tokenization_workers: Threads that split texts into tokens.
        version: This server's.
        sha: Always ``None``.
        docker_label: Always ``None``.
    """

    model_id: str
    model_sha: str | None
    model_dtype: str
    served_model_name: str
    model_type: TeiModelType
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None = None
    docker_label: str | None = None
