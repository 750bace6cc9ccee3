# SPDX-License-Identifier: Apache-2.0
"""Ollama's API, as far as it is about embeddings.

Wire format: https://github.com/ollama/ollama/blob/main/docs/api.md, and ``server/routes.go`` there
for what it leaves open. ``/api/embed`` gives vectors of unit length, the older ``/api/embeddings``
those of the model's own chain. Model names may have ``:latest`` behind them.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import msgspec
from litestar import Controller, Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from appliance.auth import visit_of
from appliance.context import while_connected
from appliance.engine.inputs import Inputs
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.engine.types import Embedding, EmbedOptions
from appliance.errors import (
    InvalidRequest,
    ModelNotAllowed,
    ModelNotFound,
    ModelUnavailable,
)
from appliance.openapi.headers import QUOTA_HEADERS
from appliance.openapi.operations import WORK_ERRORS, operation
from appliance.telemetry.middleware import EMBEDS
from appliance.telemetry.notes import note_encoding
from compat.handling import admit, read_request, work_on
from compat.ollama_asking import choose_model, embed_answer, load_or_unload, seconds_of
from compat.ollama_errors import REFUSALS
from compat.ollama_models import describe, list_names, running_model
from compat.ollama_types import (
    OllamaEmbeddingRequest,
    OllamaEmbeddingResponse,
    OllamaEmbedRequest,
    OllamaEmbedResponse,
    OllamaModels,
    OllamaRunningModels,
    OllamaShowRequest,
    OllamaShowResponse,
    OllamaVersion,
)
from compat.rendering import off_the_loop, render_rows, server_timing

__all__ = ["OllamaController"]

OLLAMA_VERSION = "0.13.0"
"""Of the release whose API this is like; clients ask for it to know what they may send."""

_decode_embed = msgspec.json.Decoder(OllamaEmbedRequest)
_decode_embedding = msgspec.json.Decoder(OllamaEmbeddingRequest)
_decode_show = msgspec.json.Decoder(OllamaShowRequest)

_embeds = partial(
    operation,
    *WORK_ERRORS,
    headers=("server-timing", *QUOTA_HEADERS),
    refusals=REFUSALS,
)
_tells = partial(operation, refusals=REFUSALS)


class OllamaController(Controller):
    """The routes; those for vectors under each model's name, too."""

    tags = ("Ollama",)

    @post(
        ["/api/embed", "/{name:str}/api/embed", "/{owner:str}/{name:str}/api/embed"],
        status_code=200,
        opt={EMBEDS: True},
        operation_class=_embeds(
            body=OllamaEmbedRequest,
            example={"model": "all-MiniLM-L6-v2", "input": ["Hello, world"]},
            answers={200: OllamaEmbedResponse},
        ),
    )
    async def embed(
        self,
        request: Request[Any, Any, Any],
        engine: NamedDependency[Engine],
        owner: FromPath[str | None] = None,
        name: FromPath[str | None] = None,
    ) -> Response[bytes]:
        """Embed texts, or load or unload a model."""
        began = time.perf_counter()
        asked = await read_request(request, engine, _decode_embed)
        wanted = asked.body
        model = choose_model(engine, owner, name, wanted.model)
        visit = admit(request, model, asked)
        options = EmbedOptions(
            dimensions=wanted.dimensions or None,
            normalize=True,
            truncate=wanted.truncate is not False,
            keep_alive=seconds_of(wanted.keep_alive),
        )
        shown = wanted.model or model.name
        if not wanted.input:
            await while_connected(request.receive, load_or_unload(engine, model, options))
            return _json(embed_answer(shown, b"[]", began, time.perf_counter(), 0))
        note_encoding("float")
        single = isinstance(wanted.input, str)
        inputs = Inputs([wanted.input] if isinstance(wanted.input, str) else wanted.input, single)
        result = await work_on(request, visit, inputs, engine.embed(model, inputs, options))
        loaded = result.timings.began_to_tokenize
        return await _answer(
            engine,
            result,
            lambda: embed_answer(shown, render_rows(result.vectors), began, loaded, result.tokens),
        )

    @post(
        ["/api/embeddings", "/{name:str}/api/embeddings", "/{owner:str}/{name:str}/api/embeddings"],
        status_code=200,
        opt={EMBEDS: True},
        operation_class=_embeds(
            body=OllamaEmbeddingRequest,
            example={"model": "all-MiniLM-L6-v2", "prompt": "Hello, world"},
            answers={200: OllamaEmbeddingResponse},
        ),
    )
    async def embeddings(
        self,
        request: Request[Any, Any, Any],
        engine: NamedDependency[Engine],
        owner: FromPath[str | None] = None,
        name: FromPath[str | None] = None,
    ) -> Response[bytes]:
        """Embed one text, as clients did before there was ``/api/embed``."""
        asked = await read_request(request, engine, _decode_embedding)
        wanted = asked.body
        model = choose_model(engine, owner, name, wanted.model)
        visit = admit(request, model, asked)
        options = EmbedOptions(
            normalize=False, truncate=True, keep_alive=seconds_of(wanted.keep_alive)
        )
        if not wanted.prompt:
            await while_connected(request.receive, load_or_unload(engine, model, options))
            return _json(b'{"embedding":[]}')
        note_encoding("float")
        inputs = Inputs([wanted.prompt], single=True, field="prompt")
        result = await work_on(request, visit, inputs, engine.embed(model, inputs, options))
        return await _answer(
            engine, result, lambda: b'{"embedding":' + render_rows(result.vectors)[1:-1] + b"}"
        )

    @get("/api/tags", sync_to_thread=False, operation_class=_tells())
    def tags_of_models(
        self, request: Request[Any, Any, Any], engine: NamedDependency[Engine]
    ) -> Response[OllamaModels]:
        """List the models that may be used, by each of their names."""
        models = _usable(request, engine)
        return Response(OllamaModels([name for m in models for name in list_names(engine, m)]))

    @get("/api/ps", sync_to_thread=False, operation_class=_tells())
    def running(
        self, request: Request[Any, Any, Any], engine: NamedDependency[Engine]
    ) -> Response[OllamaRunningModels]:
        """List the models that are in memory."""
        found = (running_model(engine, model) for model in _usable(request, engine))
        return Response(OllamaRunningModels([model for model in found if model is not None]))

    @get("/api/version", sync_to_thread=False, operation_class=_tells())
    def version(self) -> Response[OllamaVersion]:
        """Tell which version of Ollama's API this is like."""
        return Response(OllamaVersion(OLLAMA_VERSION))

    @post(
        "/api/show",
        status_code=200,
        operation_class=_tells(
            ModelNotAllowed,
            ModelNotFound,
            ModelUnavailable,
            body=OllamaShowRequest,
            example={"model": "all-MiniLM-L6-v2"},
        ),
    )
    async def show(
        self, request: Request[Any, Any, Any], engine: NamedDependency[Engine]
    ) -> Response[OllamaShowResponse]:
        """Describe a model. One that has not been loaded since the start is loaded for it."""
        asked = await read_request(request, engine, _decode_show)
        model = choose_model(engine, None, None, asked.body.model or asked.body.name)
        admit(request, model, asked)
        card = await while_connected(request.receive, engine.card(model))
        return Response(describe(model, card))

    @post(
        ["/api/pull", "/api/push", "/api/create", "/api/copy"],
        include_in_schema=False,
        sync_to_thread=False,
    )
    def manage(self, request: Request[Any, Any, Any]) -> None:
        """Say how models are managed here."""
        raise _not_served(request, "a model is added by POST /api/models (scope admin)")

    @delete("/api/delete", include_in_schema=False, status_code=200, sync_to_thread=False)
    def remove(self, request: Request[Any, Any, Any]) -> None:
        """Say how models are removed here."""
        raise _not_served(request, "a model is removed by DELETE /api/models/{name} (scope admin)")

    @post(["/api/generate", "/api/chat"], include_in_schema=False, sync_to_thread=False)
    def generate(self, request: Request[Any, Any, Any]) -> None:
        """Say that this is no chat server."""
        raise _not_served(request, "this server gives embeddings only, by POST /api/embed")


def _not_served(request: Request[Any, Any, Any], way: str) -> InvalidRequest:
    return InvalidRequest(f"{request.url.path} is not served here: {way}.")


def _usable(request: Request[Any, Any, Any], engine: Engine) -> list[ServedModel]:
    visit = visit_of(request)
    return [model for model in engine.models if visit.may_use(model.names)]


async def _answer(engine: Engine, result: Embedding, render: Any) -> Response[bytes]:
    content = await off_the_loop(engine, result, render)
    return _json(content, {"server-timing": server_timing(result.timings)})


def _json(content: bytes, headers: dict[str, str] | None = None) -> Response[bytes]:
    return Response(content, media_type="application/json", headers=headers)
