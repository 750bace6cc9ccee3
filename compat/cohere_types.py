# SPDX-License-Identifier: Apache-2.0
"""What Cohere's embed API is asked and answers, field by field.

Format: https://docs.cohere.com/reference/embed. Unknown fields are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

__all__ = [
    "CohereEmbedRequest",
    "CohereEmbedResponse",
    "CohereEmbedResponseV1",
    "CohereHead",
    "CohereMeta",
    "CohereTail",
    "EmbeddingType",
    "version_meta",
]

EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]
CohereInputType = Literal["search_document", "search_query", "classification", "clustering"]
ResponseType = Literal["embeddings_by_type", "embeddings_floats"]
_AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class CohereText(msgspec.Struct, tag_field="type", tag="text"):
    """A piece of text.

    Attributes:
        type: Always ``text``.
        text: The text.
    """

    text: str


class CohereInput(msgspec.Struct, omit_defaults=True):
    """One text in pieces.

    Attributes:
        content: Its pieces; they are read as lines of one text.
    """

    content: Annotated[list[CohereText], msgspec.Meta(min_length=1)]


class CohereEmbedRequest(msgspec.Struct, omit_defaults=True):
    """Texts to embed.

    Attributes:
        model: Name or alias of a model. Needed, but under a model's own path.
        texts: The texts; or ``inputs``.
        inputs: The texts in pieces; or ``texts``.
        images: Refused: models here read text.
        input_type: The model's prompt for this kind of text, if it has one, is put before each.
            Needed by ``/v2/embed``.
        embedding_types: Kinds of vectors to answer with, all of one pass. By default ``float``.
        output_dimension: Leading values of each vector to keep; the rest is scaled to unit length.
        truncate: Which end of a text that is too long is cut off; ``NONE``: the text is refused;
            ``END`` by default.
        max_tokens: Most tokens of a text that are read, where the model would read more.
        priority: 0, the default: as requests of other APIs; more: behind them.
    """

    model: str | None = None
    texts: list[str] | None = None
    inputs: list[CohereInput] | None = None
    images: list[Any] | None = None
    input_type: CohereInputType | None = None
    embedding_types: list[EmbeddingType] | None = None
    output_dimension: _AtLeastOne | None = None
    truncate: Literal["NONE", "START", "END"] | None = None
    max_tokens: _AtLeastOne | None = None
    priority: Annotated[int, msgspec.Meta(ge=0)] | None = None


class CohereEmbeddings(msgspec.Struct, omit_defaults=True, rename={"floats": "float"}):
    """Vectors in each of the kinds that were asked for, in the order of the texts.

    Attributes:
        floats: Numbers.
        int8: Steps of the model's range of values, -128 to 127.
        uint8: The same, 0 to 255.
        binary: A bit for each value, eight to a byte, -128 to 127.
        ubinary: The same, 0 to 255.
        base64: The bytes of ``float``, little-endian float32.
    """

    floats: list[list[float]] | msgspec.UnsetType = msgspec.UNSET
    int8: list[list[int]] | msgspec.UnsetType = msgspec.UNSET
    uint8: list[list[int]] | msgspec.UnsetType = msgspec.UNSET
    binary: list[list[int]] | msgspec.UnsetType = msgspec.UNSET
    ubinary: list[list[int]] | msgspec.UnsetType = msgspec.UNSET
    base64: list[str] | msgspec.UnsetType = msgspec.UNSET


class CohereApiVersion(msgspec.Struct):
    """Version of an API.

    Attributes:
        version: ``1`` or ``2``.
    """

    version: str


class CohereBilledUnits(msgspec.Struct):
    """What a request took.

    Attributes:
        input_tokens: Tokens that the model saw, special tokens included.
    """

    input_tokens: int


class CohereMeta(msgspec.Struct):
    """About an answer.

    Attributes:
        api_version: Version of the API.
        billed_units: What the request took.
    """

    api_version: CohereApiVersion
    billed_units: CohereBilledUnits


def version_meta(version: str, tokens: int) -> CohereMeta:
    """What an answer says of itself."""
    return CohereMeta(CohereApiVersion(version), CohereBilledUnits(tokens))


class CohereHead(msgspec.Struct):
    """What precedes ``embeddings`` in an answer, which is written piece by piece.

    Attributes:
        id: Another one for each answer.
        response_type: Which form ``embeddings`` has.
    """

    id: str
    response_type: ResponseType


class CohereTail(msgspec.Struct):
    """What follows ``embeddings``.

    Attributes:
        texts: The texts.
        meta: About the answer.
    """

    texts: list[str]
    meta: CohereMeta


class CohereEmbedResponse(msgspec.Struct):
    """Vectors by kind.

    Attributes:
        id: Another one for each answer.
        response_type: Says so.
        embeddings: The vectors.
        texts: The texts.
        meta: About the answer.
    """

    id: str
    response_type: Literal["embeddings_by_type"]
    embeddings: CohereEmbeddings
    texts: list[str]
    meta: CohereMeta


class CohereEmbedResponseV1(msgspec.Struct):
    """Vectors by kind where ``embedding_types`` were asked for, else a plain list of them.

    Attributes:
        id: Another one for each answer.
        response_type: Which of both ``embeddings`` is.
        embeddings: The vectors.
        texts: The texts.
        meta: About the answer.
    """

    id: str
    response_type: ResponseType
    embeddings: CohereEmbeddings | list[list[float]]
    texts: list[str]
    meta: CohereMeta
