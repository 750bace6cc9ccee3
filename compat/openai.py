# SPDX-License-Identifier: Apache-2.0
"""OpenAI's embeddings API.

Wire format: https://platform.openai.com/docs/api-reference/embeddings, with extensions that the
official SDKs pass through ``extra_body``. Errors have the shape, the statuses and the types that
OpenAI's own service answers with, and begin with the words that client libraries look for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from appliance.auth import visit_of
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.errors import (
    ModelNotAllowed,
    ModelNotFound,
)
from appliance.openapi.headers import OPENAI_HEADERS, QUOTA_HEADERS
from appliance.openapi.operations import WORK_ERRORS, operation
from appliance.telemetry.middleware import EMBEDS
from appliance.telemetry.notes import note_encoding
from compat.handling import admit, model_name, read_request, work_on
from compat.openai_asking import (
    ask,
    choose_model,
    decoder,
    inputs_of,
    render,
    wants_base64,
)
from compat.openai_errors import openai_headers
from compat.openai_types import EmbeddingRequest, EmbeddingResponse, ModelList, ModelObject
from compat.rendering import off_the_loop, server_timing

__all__ = ["OpenAIController"]


_EMBEDDINGS = operation(
    *WORK_ERRORS,
    body=EmbeddingRequest,
    example={"model": "all-MiniLM-L6-v2", "input": ["Hello, world"]},
    answers={200: EmbeddingResponse},
    headers=(*OPENAI_HEADERS, "server-timing", *QUOTA_HEADERS),
)


class OpenAIController(Controller):
    """The routes, at the root and under each model's name.

    A hub name has a slash in it, hence the two forms ``/{name}/v1`` and ``/{owner}/{name}/v1``.
    """

    tags = ("Embeddings",)

    @post(
        ["/v1/embeddings", "/{name:str}/v1/embeddings", "/{owner:str}/{name:str}/v1/embeddings"],
        status_code=200,
        opt={EMBEDS: True},
        operation_class=_EMBEDDINGS,
    )
    async def embeddings(
        self,
        request: Request[Any, Any, Any],
        engine: NamedDependency[Engine],
        owner: FromPath[str | None] = None,
        name: FromPath[str | None] = None,
    ) -> Response[bytes]:
        """Embed texts.

        Fields beside OpenAI's own are extensions; OpenAI's SDKs pass them by ``extra_body``.
        """
        return await _answer(request, engine, partial(choose_model, engine, owner, name))

    @post("/embeddings", status_code=200, opt={EMBEDS: True}, operation_class=_EMBEDDINGS)
    async def embeddings_of_tei(
        self, request: Request[Any, Any, Any], engine: NamedDependency[Engine]
    ) -> Response[bytes]:
        """Embed texts, at the path that text-embeddings-inference has beside ``/v1/embeddings``.

        Without a ``model`` the default one is meant.
        """
        choose = partial(choose_model, engine, None, None, may_be_unnamed=True)
        return await _answer(request, engine, choose)

    @get(
        ["/v1/models", "/{name:str}/v1/models", "/{owner:str}/{name:str}/v1/models"],
        sync_to_thread=False,
        operation_class=operation(ModelNotAllowed, ModelNotFound, headers=OPENAI_HEADERS),
    )
    def models(
        self,
        request: Request[Any, Any, Any],
        engine: NamedDependency[Engine],
        owner: FromPath[str | None] = None,
        name: FromPath[str | None] = None,
    ) -> Response[ModelList]:
        """List the models that may be used; under a model's own path, that one."""
        visit = visit_of(request)
        if name is None:
            listed = [model for model in engine.models if visit.may_use(model.names)]
        else:
            listed = [engine.model(model_name(owner, name))]
            visit.check_model(listed[0].names)
        return Response(
            ModelList([_model_object(model) for model in listed]), headers=openai_headers(request)
        )

    @get(
        [
            "/v1/models/{wanted:path}",
            "/{name:str}/v1/models/{wanted:path}",
            "/{owner:str}/{name:str}/v1/models/{wanted:path}",
        ],
        sync_to_thread=False,
        operation_class=operation(ModelNotAllowed, ModelNotFound, headers=OPENAI_HEADERS),
    )
    def one_model(
        self,
        request: Request[Any, Any, Any],
        engine: NamedDependency[Engine],
        wanted: FromPath[str],
    ) -> Response[ModelObject]:
        """Describe one model, by name or alias."""
        model = engine.model(str(wanted).strip("/"))
        visit_of(request).check_model(model.names)
        return Response(_model_object(model), headers=openai_headers(request))


async def _answer(
    request: Request[Any, Any, Any],
    engine: Engine,
    choose: Callable[[str | None], ServedModel],
) -> Response[bytes]:
    asked = await read_request(request, engine, decoder)
    wanted = asked.body
    model = choose(wanted.model)
    visit = admit(request, model, asked)
    as_base64 = wants_base64(wanted.encoding_format)
    note_encoding("base64" if as_base64 else "float")
    inputs = inputs_of(wanted.input)
    result = await work_on(request, visit, inputs, ask(engine, model, inputs, wanted))
    content = await off_the_loop(engine, result, lambda: render(result, model.name, as_base64))
    headers = openai_headers(request) | {"server-timing": server_timing(result.timings)}
    return Response(content, media_type="application/json", headers=headers)


def _model_object(model: ServedModel) -> ModelObject:
    return ModelObject(id=model.name, created=model.created, owned_by="appliance")
