# SPDX-License-Identifier: Apache-2.0
"""What OpenAI's embeddings API is asked and answers, field by field.

What a request's types leave open is checked later, in words that client libraries look for; there
``extra_json_schema`` tells the API's description of it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from appliance.engine.types import InputType, OutputDtype, Priority, TruncationDirection
from appliance.settings import TokenIds

__all__ = [
    "ENCODING_FORMATS",
    "EmbeddingObject",
    "EmbeddingRequest",
    "EmbeddingResponse",
    "ModelList",
    "ModelObject",
    "ResponseTail",
    "Usage",
]

ENCODING_FORMATS = ("float", "base64")


def _also(**schema: object) -> msgspec.Meta:
    return msgspec.Meta(extra_json_schema=schema)


Text = Annotated[str, _also(minLength=1)]
TokenId = Annotated[int, _also(minimum=0)]
TokenIdList = Annotated[list[TokenId], _also(minItems=1)]
Many = Annotated[
    list[Text | TokenId | TokenIdList],
    _also(minItems=1, anyOf=[{"items": {"type": kind}} for kind in ("string", "integer", "array")]),
]
OutputType = Literal["dense", "sparse"]
Seconds = Annotated[float, _also(anyOf=[{"const": -1}, {"minimum": 0}])]


_SPARSE_VALUE = {
    "type": "object",
    "properties": {"index": {"type": "integer"}, "value": {"type": "number"}},
    "required": ["index", "value"],
}


class EmbeddingRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Texts to embed.

    Attributes:
        input: A text, a list of texts, the token ids of one text, or a list of such lists.
        model: Name or alias of a model. Needed, but under a model's own path.
        encoding_format: ``base64``: a vector is its bytes, little-endian; ``float``, the default:
            a list of numbers.
        dimensions: Leading values of each vector to keep; the rest is scaled to unit length.
        user: Accepted, and not used.
        normalize: Whether vectors are scaled to unit length; by default they are, unless the
            model is set otherwise.
        output_dtype: What the values of a vector become; ``float`` by default.
        truncate: Whether a text that is too long is cut, rather than refused; by default as the
            model is set.
        truncation_direction: The end of a text that a cut takes away; ``right`` by default.
        token_encoding: What token ids mean: ``cl100k_base``, ids of OpenAI's, which are decoded and
            tokenised anew; ``native``, ids of the model's own; by default as the model is set.
        prompt: Put before each text. Excludes ``prompt_name`` and ``input_type``.
        prompt_name: The model's prompt of this name is put before each text.
        input_type: The model's prompt for this kind of text, if it has one, is put before each.
        output_type: ``sparse``: the words of the model's vocabulary that count, in place of a
            vector; only of models that have them. ``dense``, the default: a vector.
        keep_alive: Seconds that the model stays loaded after its last request, until one says
            otherwise; -1: for ever.
        priority: Whether the request goes before others for the model; ``normal`` by default. While
            a higher class has work, a lower one gets a sixteenth of what that does.
    """

    input: Text | Many
    model: str | None = None
    encoding_format: Annotated[str, _also(enum=ENCODING_FORMATS)] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    user: str | None = None
    normalize: bool | None = None
    output_dtype: OutputDtype | None = None
    truncate: bool | None = None
    truncation_direction: TruncationDirection | None = None
    token_encoding: TokenIds | None = None
    prompt: str | None = None
    prompt_name: str | None = None
    input_type: InputType | None = None
    output_type: OutputType | None = None
    keep_alive: Seconds | None = None
    # A word, since servers with numbers do not agree on which end comes first.
    priority: Priority | None = None


class EmbeddingObject(msgspec.Struct):
    """One vector.

    Attributes:
        index: Position of its text in ``input``.
        embedding: Numbers; in ``base64``, their bytes. Of a sparse one an empty list.
        sparse_embedding: Ids of words, ascending, with values above zero; only where
            ``output_type`` is ``sparse``.
    """

    index: int
    # As compat.rendering gives it.
    embedding: memoryview | Annotated[msgspec.Raw, _also(type="array", items={"type": "number"})]
    object: Literal["embedding"] = "embedding"
    sparse_embedding: (
        Annotated[msgspec.Raw, _also(type="array", items=_SPARSE_VALUE)] | msgspec.UnsetType
    ) = msgspec.UNSET


class Usage(msgspec.Struct):
    """What was read.

    Attributes:
        prompt_tokens: Tokens that the model saw, special tokens included.
        total_tokens: The same.
    """

    prompt_tokens: int
    total_tokens: int


class ResponseTail(msgspec.Struct):
    """What follows ``object`` and ``data`` in an answer, which is written piece by piece."""

    model: str
    usage: Usage


class EmbeddingResponse(ResponseTail):
    """Vectors, in the order of the texts.

    Attributes:
        data: The vectors.
        model: Name of the model, whatever alias was asked for.
        usage: What was read.
    """

    data: list[EmbeddingObject]
    object: Literal["list"] = "list"


class ModelObject(msgspec.Struct):
    """One model.

    Attributes:
        id: Its name.
        created: When it was configured or added, in Unix seconds.
        owned_by: Always ``appliance``.
    """

    id: str
    created: int
    owned_by: str
    object: Literal["model"] = "model"


class ModelList(msgspec.Struct):
    """The models that the key may use.

    Attributes:
        data: The models.
    """

    data: list[ModelObject]
    object: Literal["list"] = "list"
