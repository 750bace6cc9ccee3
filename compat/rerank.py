# SPDX-License-Identifier: Apache-2.0
"""Documents ranked by a query, in the shape that Jina's and Cohere's APIs have in common.

Errors have the shape of OpenAI's API, as of all under ``/v1``; under ``/v2`` that of Cohere's.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from appliance.engine.inputs import Inputs
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.engine.types import EmbedOptions, InputType, Timings
from appliance.errors import (
    EmptyInput,
    TooManyInputs,
    WrongModelKind,
)
from appliance.openapi.headers import OPENAI_HEADERS, QUOTA_HEADERS
from appliance.openapi.operations import WORK_ERRORS, operation
from appliance.telemetry.middleware import EMBEDS
from compat import cohere_errors
from compat.handling import admit, read_request, work_on
from compat.openai_asking import choose_model
from compat.openai_errors import openai_headers
from compat.rendering import off_the_loop, render_numbers, server_timing
from compat.rerank_types import (
    BilledUnits,
    RankedDocument,
    RerankDocument,
    RerankMeta,
    RerankRequest,
    RerankResponse,
    RerankUsage,
)

__all__ = ["CohereRerankController", "RerankController"]

DOCUMENTS_PER_UNIT = 100
"""That Cohere counts as one search."""

_decoder = msgspec.json.Decoder(RerankRequest)


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well documents fit a query.

    Attributes:
        scores: float32, shape ``[documents]``.
        tokens: Tokens that the model saw, special tokens included.
        timings: Where the time went.
    """

    scores: npt.NDArray[np.float32]
    tokens: int
    timings: Timings

    @property
    def numbers(self) -> int:
        """Numbers to write."""
        return self.scores.size


def _paths(version: str) -> list[str]:
    return [f"{place}/{version}/rerank" for place in ("", "/{name:str}", "/{owner:str}/{name:str}")]


_described = partial(
    operation,
    EmptyInput,
    TooManyInputs,
    WrongModelKind,
    *WORK_ERRORS,
    body=RerankRequest,
    example={
        "model": "all-MiniLM-L6-v2",
        "query": "Who wrote it?",
        "documents": ["Ada did.", "It is late."],
    },
    answers={200: RerankResponse},
    headers=(*OPENAI_HEADERS, "server-timing", *QUOTA_HEADERS),
)


class RerankController(Controller):
    """The route as Jina has it, at the root and under each model's name."""

    tags = ("Reranking",)

    @post(_paths("v1"), status_code=200, opt={EMBEDS: True}, operation_class=_described())
    async def rerank(
        self,
        request: Request[Any, Any, Any],
        engine: NamedDependency[Engine],
        owner: FromPath[str | None] = None,
        name: FromPath[str | None] = None,
    ) -> Response[bytes]:
        """Rank documents by a query, the best first.

        With a reranker by its scores, with an embedding model by the cosine of vectors. Texts that
        are too long are cut, unless `truncate` says otherwise.
        """
        return await _answer(request, engine, owner, name)


class CohereRerankController(Controller):
    """The same as Cohere's second version has it."""

    tags = ("Reranking",)

    @post(
        _paths("v2"),
        status_code=200,
        opt={EMBEDS: True},
        operation_class=_described(refusals=cohere_errors.REFUSALS),
    )
    async def rerank(
        self,
        request: Request[Any, Any, Any],
        engine: NamedDependency[Engine],
        owner: FromPath[str | None] = None,
        name: FromPath[str | None] = None,
    ) -> Response[bytes]:
        """Rank documents by a query, the best first.

        As `/v1/rerank`, with errors in Cohere's shape.
        """
        return await _answer(request, engine, owner, name)


async def _answer(
    request: Request[Any, Any, Any], engine: Engine, owner: str | None, name: str | None
) -> Response[bytes]:
    asked = await read_request(request, engine, _decoder)
    wanted = asked.body
    model = choose_model(engine, owner, name, wanted.model)
    visit = admit(request, model, asked)
    texts = [d if isinstance(d, str) else d.text for d in wanted.documents]
    everything = Inputs([wanted.query, *texts], field="documents")
    work = _rank(engine, model, wanted, texts)
    result = await work_on(request, visit, everything, work)
    content = await off_the_loop(engine, result, lambda: _render(result, model, wanted, texts))
    headers = openai_headers(request) | {"server-timing": server_timing(result.timings)}
    return Response(content, media_type="application/json", headers=headers)


async def _rank(
    engine: Engine, model: ServedModel, wanted: RerankRequest, texts: Sequence[str]
) -> Ranking:
    if not wanted.query:
        raise EmptyInput("query is empty; it must hold at least one token.", param="query")
    truncate = True if wanted.truncate is None else wanted.truncate
    kind = (await engine.card(model)).kind
    if kind == "embedding":
        return await _rank_by_vectors(engine, model, wanted.query, texts, truncate)
    if kind != "reranker":
        raise WrongModelKind(
            f"The model '{model.name}' ranks no documents: it is neither a reranker nor an"
            " embedding model.",
            param="model",
        )
    pairs = Inputs([(wanted.query, text) for text in texts], field="documents")
    scores = await engine.score(model, pairs, EmbedOptions(truncate=truncate))
    return Ranking(scores.rows[:, 0], scores.tokens, scores.timings)


async def _rank_by_vectors(
    engine: Engine, model: ServedModel, query: str, texts: Sequence[str], truncate: bool
) -> Ranking:
    def options(input_type: InputType) -> EmbedOptions:
        return EmbedOptions(normalize=True, truncate=truncate, input_type=input_type)

    one = Inputs([query], single=True, field="query")
    # The documents first: of the two, they are what may be refused.
    documents = await engine.embed(model, Inputs(texts, field="documents"), options("document"))
    asked = await engine.embed(model, one, options("query"))
    timings = Timings.of_parts([documents.timings, asked.timings])
    cosines = documents.vectors @ asked.vectors[0]
    return Ranking(cosines, documents.tokens + asked.tokens, timings)


def _render(
    ranking: Ranking, model: ServedModel, wanted: RerankRequest, texts: Sequence[str]
) -> bytes:
    best: list[int] = np.argsort(-ranking.scores, kind="stable")[: wanted.top_n].tolist()
    written = render_numbers(ranking.scores)
    results = [
        RankedDocument(
            index,
            written[index],
            RerankDocument(texts[index]) if wanted.return_documents else None,
        )
        for index in best
    ]
    units = math.ceil(len(texts) / DOCUMENTS_PER_UNIT)
    return msgspec.json.encode(
        RerankResponse(
            str(uuid.uuid4()),
            model.name,
            results,
            RerankUsage(ranking.tokens, ranking.tokens),
            RerankMeta(BilledUnits(units)),
        )
    )
