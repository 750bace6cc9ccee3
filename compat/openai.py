# SPDX-License-Identifier: Apache-2.0
"""OpenAI's embeddings API.

Wire format: https://platform.openai.com/docs/api-reference/embeddings, with extensions that the
official SDKs pass through ``extra_body``. Errors have the shape, the statuses and the types that
OpenAI's own service answers with, and begin with the words that client libraries look for.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from appliance.auth import visit_of
from appliance.engine.inputs import Inputs
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.engine.types import Embedding, EmbedOptions
from appliance.errors import (
    InputTooLong,
    InvalidRequest,
    ModelNotAllowed,
    ModelNotFound,
    ModelUnavailable,
    Overloaded,
    RequestsExceeded,
    RequestTooManyTokens,
    TokensExceeded,
)
from appliance.openapi.headers import OPENAI_HEADERS, QUOTA_HEADERS
from appliance.openapi.operations import operation
from appliance.telemetry.middleware import EMBEDS
from appliance.telemetry.notes import note_encoding
from compat.handling import admit, model_name, read_request, work_on
from compat.openai_errors import openai_headers
from compat.openai_types import (
    ENCODING_FORMATS,
    EmbeddingObject,
    EmbeddingRequest,
    EmbeddingResponse,
    ModelList,
    ModelObject,
    ResponseTail,
    Usage,
)
from compat.rendering import off_the_loop, render_vector, server_timing

__all__ = ["OpenAIController"]

_decoder = msgspec.json.Decoder(EmbeddingRequest)
_encoder = msgspec.json.Encoder()


class OpenAIController(Controller):
    """The routes, at the root and under each model's name.

    A hub name has a slash in it, hence the two forms ``/{name}/v1`` and ``/{owner}/{name}/v1``.
    """

    tags = ("Embeddings",)

    @post(
        ["/v1/embeddings", "/{name:str}/v1/embeddings", "/{owner:str}/{name:str}/v1/embeddings"],
        status_code=200,
        opt={EMBEDS: True},
        operation_class=operation(
            InputTooLong,
            RequestTooManyTokens,
            ModelNotAllowed,
            ModelNotFound,
            Overloaded,
            RequestsExceeded,
            TokensExceeded,
            ModelUnavailable,
            body=EmbeddingRequest,
            example={"model": "all-MiniLM-L6-v2", "input": ["Hello, world"]},
            answers={200: EmbeddingResponse},
            headers=(*OPENAI_HEADERS, "server-timing", *QUOTA_HEADERS),
        ),
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
        asked = await read_request(request, engine, _decoder)
        wanted = asked.body
        model = _choose_model(engine, owner, name, wanted.model)
        visit = admit(request, model, asked)
        as_base64 = _wants_base64(wanted.encoding_format)
        note_encoding("base64" if as_base64 else "float")
        options = EmbedOptions(
            dimensions=wanted.dimensions,
            normalize=wanted.normalize,
            output_dtype=wanted.output_dtype or "float",
            truncate=wanted.truncate,
            truncation_direction=wanted.truncation_direction or "right",
            token_encoding=wanted.token_encoding,
            prompt=wanted.prompt,
            prompt_name=wanted.prompt_name,
            input_type=wanted.input_type,
            keep_alive=wanted.keep_alive,
            priority=wanted.priority or "normal",
        )
        inputs = _inputs(wanted.input)
        result = await work_on(request, visit, inputs, engine.embed(model, inputs, options))
        content = await off_the_loop(engine, result, lambda: _render(result, model.name, as_base64))
        headers = openai_headers(request) | {"server-timing": server_timing(result.timings)}
        return Response(content, media_type="application/json", headers=headers)

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


def _model_object(model: ServedModel) -> ModelObject:
    return ModelObject(id=model.name, created=model.created, owned_by="appliance")


def _inputs(value: str | list[str | int | list[int]]) -> Inputs:
    """Tell the four forms of ``input`` apart."""
    if isinstance(value, str):
        return Inputs([value], single=True)
    kinds = {type(item) for item in value}
    if kinds == {int}:
        return Inputs([cast("list[int]", value)], single=True)
    if len(kinds) > 1:
        raise InvalidRequest(
            "'input' is invalid: its items must be all strings, all token ids, or all lists of"
            " token ids.",
            param="input",
        )
    return Inputs(cast("list[str] | list[list[int]]", value))


def _wants_base64(encoding_format: str | None) -> bool:
    if encoding_format not in (None, *ENCODING_FORMATS):
        raise InvalidRequest(
            f"Invalid value for 'encoding_format' = {encoding_format}. Supported values:"
            f" {list(ENCODING_FORMATS)}.",
            param="encoding_format",
        )
    return encoding_format == "base64"


def _choose_model(
    engine: Engine, owner: str | None, name: str | None, wanted: str | None
) -> ServedModel:
    if name is None:
        if not wanted:
            raise InvalidRequest("You must provide a 'model'.", param="model")
        return engine.model(wanted)
    model = engine.model(model_name(owner, name))
    if wanted and engine.model(wanted) is not model:
        raise ModelNotFound(
            f"The model '{wanted}' does not exist under this path, which serves '{model.name}'.",
            param="model",
        )
    return model


def _render(result: Embedding, model: str, as_base64: bool) -> bytes:
    """Write an answer row by row, so that other threads get their turn in between."""
    answer = bytearray(b'{"object":"list","data":[')
    for index, row in enumerate(result.vectors):
        if index:
            answer += b","
        _encoder.encode_into(EmbeddingObject(index, render_vector(row, as_base64)), answer, -1)
    tail = _encoder.encode(ResponseTail(model, Usage(result.tokens, result.tokens)))
    return bytes(answer + b"]," + tail[1:])
