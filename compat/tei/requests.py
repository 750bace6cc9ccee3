# SPDX-License-Identifier: Apache-2.0
"""What the API of text-embeddings-inference is asked, field by field.

Fields that are not known are ignored, as TEI does. What a request's types leave open is checked
later, in TEI's words; there ``extra_json_schema`` tells the API's description of it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

__all__ = [
    "TeiDecodeRequest",
    "TeiEmbedRequest",
    "TeiModelRequest",
    "TeiPredictRequest",
    "TeiRequest",
    "TeiRerankRequest",
    "TeiSentences",
    "TeiSimilarityParameters",
    "TeiSimilarityRequest",
    "TeiTextsRequest",
    "TeiTokenizeRequest",
    "TeiVertexRequest",
]


def _also(**schema: object) -> msgspec.Meta:
    return msgspec.Meta(extra_json_schema=schema)


Text = Annotated[str, _also(minLength=1)]
Texts = Annotated[list[Text], _also(minItems=1)]
TokenId = Annotated[int, msgspec.Meta(ge=0)]
TokenIdList = Annotated[list[TokenId], _also(minItems=1)]
Many = Annotated[
    list[Text | TokenId | TokenIdList],
    _also(minItems=1, anyOf=[{"items": {"type": kind}} for kind in ("string", "integer", "array")]),
]
Pair = Annotated[list[Text], _also(minItems=1, maxItems=2)]
Sequences = Annotated[
    list[Text | Pair],
    _also(
        minItems=1,
        anyOf=[{"items": {"type": "string"}, "maxItems": 2}, {"items": {"type": "array"}}],
    ),
]
Direction = Literal["right", "left", "Right", "Left"]


class TeiRequest(msgspec.Struct, omit_defaults=True):
    """What most requests may say.

    Attributes:
        truncate: Whether a text that is too long is cut, rather than refused; by default it is,
            unless the model is set otherwise.
        truncation_direction: The end of a text that a cut takes away.
    """

    truncate: bool | None = None
    truncation_direction: Direction = "right"


class TeiTextsRequest(TeiRequest, kw_only=True):
    """Texts to work on.

    Attributes:
        inputs: A text, a list of texts, the ids of one text's tokens, or a list of such lists; ids
            are the model's own, special tokens included.
        prompt_name: The model's prompt of this name is put before each text; by default as the
            model is set.
    """

    inputs: Text | Many
    prompt_name: str | None = None


class TeiEmbedRequest(TeiTextsRequest):
    """Texts to embed.

    Attributes:
        normalize: Whether vectors are scaled to unit length.
        dimensions: Leading values of each vector to keep; the rest is scaled to unit length.
    """

    normalize: bool = True
    dimensions: Annotated[int, msgspec.Meta(ge=0, extra_json_schema={"minimum": 1})] | None = None


class TeiSentences(msgspec.Struct, omit_defaults=True):
    """Sentences to compare.

    Attributes:
        source_sentence: The one.
        sentences: Those that it is compared with.
    """

    source_sentence: Text
    sentences: Texts


class TeiSimilarityParameters(TeiRequest):
    """How they are read.

    Attributes:
        prompt_name: The model's prompt of this name is put before each sentence; by default as the
            model is set.
    """

    prompt_name: str | None = None


class TeiSimilarityRequest(msgspec.Struct, omit_defaults=True):
    """A sentence to compare with others.

    Attributes:
        inputs: The sentences.
        parameters: How they are read.
    """

    inputs: TeiSentences
    parameters: TeiSimilarityParameters | None = None


class TeiPredictRequest(TeiRequest, kw_only=True):
    """Texts, or pairs of them, to classify.

    Attributes:
        inputs: A text; a pair, as a list of two texts; or a batch, as a list of lists of one text
            or two.
        raw_scores: Whether scores are the model's own, rather than numbers from 0 to 1.
    """

    inputs: Text | Sequences
    raw_scores: bool = False


class TeiRerankRequest(TeiRequest, kw_only=True):
    """Texts to rank.

    Attributes:
        query: What they are ranked by.
        texts: The texts.
        raw_scores: Whether scores are the model's own, rather than numbers from 0 to 1.
        return_text: Whether the answer repeats the texts.
    """

    query: Text
    texts: Texts
    raw_scores: bool = False
    return_text: bool = False


class TeiTokenizeRequest(msgspec.Struct, omit_defaults=True):
    """Texts to split.

    Attributes:
        inputs: A text, or a list of texts.
        add_special_tokens: Whether the model's special tokens are put around each.
        prompt_name: The model's prompt of this name is put before each text; by default as the
            model is set.
    """

    inputs: Text | Texts
    add_special_tokens: bool = True
    prompt_name: str | None = None


class TeiDecodeRequest(msgspec.Struct, omit_defaults=True):
    """Token ids to turn into texts.

    Attributes:
        ids: The ids of one text, or a list of such lists.
        skip_special_tokens: Whether special tokens are left out.
    """

    ids: Annotated[
        list[TokenId | TokenIdList],
        _also(minItems=1, anyOf=[{"items": {"type": kind}} for kind in ("integer", "array")]),
    ]
    skip_special_tokens: bool = True


class TeiModelRequest(msgspec.Struct, omit_defaults=True):
    """As for the route that the model's kind is for.

    To an embedding model, as for ``/embed``, or for ``/similarity`` where ``inputs`` is an object;
    to a SPLADE model, as for ``/embed_sparse``; to a reranker, as for ``/rerank``; to another
    classifier, as for ``/predict``.

    Attributes:
        inputs: As there.
    """

    inputs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class TeiVertexRequest(msgspec.Struct, omit_defaults=True):
    """What Vertex AI sends.

    Attributes:
        instances: Each as for the route that the model's kind is for; a reranker is also asked as
            for ``/predict``.
    """

    instances: Annotated[list[Annotated[msgspec.Raw, _also(type="object")]], _also(minItems=1)]
