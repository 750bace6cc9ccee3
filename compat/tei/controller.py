# SPDX-License-Identifier: Apache-2.0
"""The routes."""

from __future__ import annotations

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath

from appliance.auth import visit_of
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.errors import ModelNotFound
from appliance.telemetry.middleware import EMBEDS
from compat.handling import model_name
from compat.tei import descriptions
from compat.tei.answering import HttpRequest, answer, invoke, read, work
from compat.tei.answers import TeiInfo
from compat.tei.kinds import (
    EMBED,
    EMBED_ALL,
    EMBED_SPARSE,
    PREDICT,
    RERANK,
    SIMILARITY,
    vertex,
)
from compat.tei.requests import TeiDecodeRequest, TeiTokenizeRequest, TeiVertexRequest
from compat.tei.texts import decode, describe, tokenize

__all__ = ["TeiController"]

_tokenize = msgspec.json.Decoder(TeiTokenizeRequest)
_decode = msgspec.json.Decoder(TeiDecodeRequest)
_vertex = msgspec.json.Decoder(TeiVertexRequest)
_encoder = msgspec.json.Encoder()


def _paths(route: str) -> list[str]:
    return [f"/{route}", f"/{{name:str}}/{route}", f"/{{owner:str}}/{{name:str}}/{route}"]


def _asked_model(
    engine: NamedDependency[Engine],
    owner: FromPath[str | None] = None,
    name: FromPath[str | None] = None,
) -> ServedModel:
    """The model of the path; the default one where it names none."""
    if name is not None:
        return engine.model(model_name(owner, name))
    if not engine.models:
        raise ModelNotFound("No model is served.")
    return engine.models[0]


class TeiController(Controller):
    """The routes, at the root for the default model and under each model's name."""

    tags = ("TEI",)
    dependencies = {"model": Provide(_asked_model, sync_to_thread=False)}  # noqa: RUF012

    @get(_paths("info"), operation_class=descriptions.INFO)
    async def info(
        self,
        request: HttpRequest,
        engine: NamedDependency[Engine],
        model: NamedDependency[ServedModel],
    ) -> Response[TeiInfo]:
        """Describe the model and its limits."""
        visit_of(request).check_model(model.names)
        return Response(await describe(engine, model))

    @post(
        _paths("embed"),
        status_code=200,
        opt={EMBEDS: True},
        operation_class=descriptions.EMBED,
    )
    async def embed(
        self,
        request: HttpRequest,
        engine: NamedDependency[Engine],
        model: NamedDependency[ServedModel],
    ) -> Response[bytes]:
        """Embed texts."""
        return await answer(request, engine, model, EMBED)

    @post(
        _paths("embed_all"),
        status_code=200,
        opt={EMBEDS: True},
        operation_class=descriptions.EMBED_ALL,
    )
    async def embed_all(
        self,
        request: HttpRequest,
        engine: NamedDependency[Engine],
        model: NamedDependency[ServedModel],
    ) -> Response[bytes]:
        """Give the vector of each token of texts."""
        return await answer(request, engine, model, EMBED_ALL)

    @post(
        _paths("embed_sparse"),
        status_code=200,
        opt={EMBEDS: True},
        operation_class=descriptions.EMBED_SPARSE,
    )
    async def embed_sparse(
        self,
        request: HttpRequest,
        engine: NamedDependency[Engine],
        model: NamedDependency[ServedModel],
    ) -> Response[bytes]:
        """Give the words of the vocabulary that count for texts.

        SPLADE models do, and those with a sparse head.
        """
        return await answer(request, engine, model, EMBED_SPARSE)

    @post(
        _paths("similarity"),
        status_code=200,
        opt={EMBEDS: True},
        operation_class=descriptions.SIMILARITY,
    )
    async def similarity(
        self,
        request: HttpRequest,
        engine: NamedDependency[Engine],
        model: NamedDependency[ServedModel],
    ) -> Response[bytes]:
        """Compare a sentence with others, by the cosine of their vectors."""
        return await answer(request, engine, model, SIMILARITY)

    @post(
        _paths("predict"),
        status_code=200,
        opt={EMBEDS: True},
        operation_class=descriptions.PREDICT,
    )
    async def predict(
        self,
        request: HttpRequest,
        engine: NamedDependency[Engine],
        model: NamedDependency[ServedModel],
    ) -> Response[bytes]:
        """Score the labels of a classifier for texts or pairs, the best first."""
        return await answer(request, engine, model, PREDICT)

    @post(
        _paths("rerank"),
        status_code=200,
        opt={EMBEDS: True},
        operation_class=descriptions.RERANK,
    )
    async def rerank(
        self,
        request: HttpRequest,
        engine: NamedDependency[Engine],
        model: NamedDependency[ServedModel],
    ) -> Response[bytes]:
        """Rank texts by a query with a reranker, the best first."""
        return await answer(request, engine, model, RERANK)

    @post(
        _paths("invocations"),
        status_code=200,
        opt={EMBEDS: True},
        operation_class=descriptions.INVOCATIONS,
    )
    async def invocations(
        self,
        request: HttpRequest,
        engine: NamedDependency[Engine],
        model: NamedDependency[ServedModel],
    ) -> Response[bytes]:
        """Do what the model is for.

        For the default model, `POST /` is the same.
        """
        return await invoke(request, engine, model)

    # Not described: at the same path, readers are sent on to the dashboard, which is no API.
    @post("/", status_code=200, opt={EMBEDS: True}, include_in_schema=False)
    async def root(
        self,
        request: HttpRequest,
        engine: NamedDependency[Engine],
        model: NamedDependency[ServedModel],
    ) -> Response[bytes]:
        """Do what the default model is for."""
        return await invoke(request, engine, model)

    @post(
        _paths("vertex"),
        status_code=200,
        opt={EMBEDS: True},
        operation_class=descriptions.VERTEX,
    )
    async def vertex(
        self,
        request: HttpRequest,
        engine: NamedDependency[Engine],
        model: NamedDependency[ServedModel],
    ) -> Response[bytes]:
        """Do what the model is for, several times, in the shape of Vertex AI."""
        asked, visit = await read(request, engine, model, _vertex)
        kind = (await engine.card(model)).kind
        return await work(request, engine, model, visit, vertex(engine, model, kind, asked))

    @post(_paths("tokenize"), status_code=200, operation_class=descriptions.TOKENIZE)
    async def tokenize(
        self,
        request: HttpRequest,
        engine: NamedDependency[Engine],
        model: NamedDependency[ServedModel],
    ) -> Response[bytes]:
        """Split texts into tokens."""
        asked, _ = await read(request, engine, model, _tokenize)
        tokens = await tokenize(engine, model, asked)
        content = await engine.in_background(lambda: _encoder.encode(tokens))
        return Response(content, media_type="application/json")

    @post(_paths("decode"), status_code=200, operation_class=descriptions.DECODE)
    async def decode(
        self,
        request: HttpRequest,
        engine: NamedDependency[Engine],
        model: NamedDependency[ServedModel],
    ) -> Response[list[str]]:
        """Put texts together from token ids."""
        asked, _ = await read(request, engine, model, _decode)
        return Response(await decode(engine, model, asked))
