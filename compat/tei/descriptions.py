# SPDX-License-Identifier: Apache-2.0
"""What the routes say of themselves in the API's description."""

from __future__ import annotations

from functools import partial
from typing import Any

from appliance.errors import (
    InputTooLong,
    ModelNotAllowed,
    ModelNotFound,
    ModelUnavailable,
    Overloaded,
    RequestsExceeded,
    RequestTooManyTokens,
    TokensExceeded,
    WrongModelKind,
)
from appliance.openapi.headers import QUOTA_HEADERS, TEI_HEADERS
from appliance.openapi.operations import operation
from compat.tei.answers import (
    TeiInfo,
    TeiPrediction,
    TeiRank,
    TeiSparseValue,
    TeiToken,
    TeiVertexResponse,
)
from compat.tei.errors import REFUSALS, NothingGiven
from compat.tei.requests import (
    TeiDecodeRequest,
    TeiEmbedRequest,
    TeiModelRequest,
    TeiPredictRequest,
    TeiRerankRequest,
    TeiSimilarityRequest,
    TeiTextsRequest,
    TeiTokenizeRequest,
    TeiVertexRequest,
)

__all__ = [
    "DECODE",
    "EMBED",
    "EMBED_ALL",
    "EMBED_SPARSE",
    "INFO",
    "INVOCATIONS",
    "PREDICT",
    "RERANK",
    "SIMILARITY",
    "TOKENIZE",
    "VERTEX",
]

_TEXTS = {"inputs": ["Hello, world"]}

_plain = partial(
    operation,
    ModelNotAllowed,
    ModelNotFound,
    ModelUnavailable,
    RequestsExceeded,
    refusals=REFUSALS,
)
_of_texts = partial(_plain, NothingGiven, headers=QUOTA_HEADERS)
_of_work = partial(
    _plain,
    NothingGiven,
    InputTooLong,
    RequestTooManyTokens,
    WrongModelKind,
    Overloaded,
    TokensExceeded,
    headers=(*TEI_HEADERS, "server-timing", *QUOTA_HEADERS),
)

INFO = _plain(answers={200: TeiInfo})
EMBED = _of_work(body=TeiEmbedRequest, example=_TEXTS, answers={200: list[list[float]]})
EMBED_ALL = _of_work(body=TeiTextsRequest, example=_TEXTS, answers={200: list[list[list[float]]]})
EMBED_SPARSE = _of_work(
    body=TeiTextsRequest, example=_TEXTS, answers={200: list[list[TeiSparseValue]]}
)
SIMILARITY = _of_work(
    body=TeiSimilarityRequest,
    example={"inputs": {"source_sentence": "Hello", "sentences": ["Hi there", "Goodbye"]}},
    answers={200: list[float]},
)
PREDICT = _of_work(
    body=TeiPredictRequest,
    example={"inputs": "I like this."},
    answers={200: list[TeiPrediction | list[TeiPrediction]]},
)
RERANK = _of_work(
    body=TeiRerankRequest,
    example={"query": "Who wrote it?", "texts": ["Ada did.", "It is late."]},
    answers={200: list[TeiRank]},
)
INVOCATIONS = _of_work(body=TeiModelRequest, example=_TEXTS, answers={200: list[Any]})
VERTEX = _of_work(
    body=TeiVertexRequest, example={"instances": [_TEXTS]}, answers={200: TeiVertexResponse}
)
TOKENIZE = _of_texts(body=TeiTokenizeRequest, example=_TEXTS, answers={200: list[list[TeiToken]]})
DECODE = _of_texts(body=TeiDecodeRequest, example={"ids": [[7592]]}, answers={200: list[str]})
