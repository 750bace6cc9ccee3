# SPDX-License-Identifier: Apache-2.0
"""OpenAI's embeddings API.

Wire format: https://platform.openai.com/docs/api-reference/embeddings, with extensions that the
official SDKs pass through ``extra_body``. Errors have the shape, the statuses and the types that
OpenAI's own service answers with, and begin with the words that client libraries look for.
"""

from __future__ import annotations

from typing import Annotated, Any, cast

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from appliance.access.quotas import estimate_tokens
from appliance.auth import visit_of
from appliance.bodies import check_body_size, parse_body, read_json_body
from appliance.context import while_connected
from appliance.engine.inputs import Inputs
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.engine.types import (
    Embedding,
    EmbedOptions,
    InputType,
    OutputDtype,
    Priority,
    TruncationDirection,
)
from appliance.errors import InvalidRequest, ModelNotFound
from appliance.settings import TokenIds
from compat.openai_errors import openai_headers
from compat.rendering import off_the_loop, render_vector, server_timing

__all__ = ["OpenAIController"]


class EmbeddingRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of ``POST /v1/embeddings``.

    ``priority`` has words for its classes, since servers with numbers do not agree on which end
    comes first. While a higher one has work, a lower one gets a sixteenth of what that does.
    """

    input: str | list[str | int | list[int]]
    model: str | None = None
    encoding_format: str | None = None
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
    keep_alive: float | None = None
    priority: Priority | None = None


class EmbeddingObject(msgspec.Struct):
    """One vector, as :func:`~compat.rendering.render_vector` gives it."""

    index: int
    embedding: memoryview | msgspec.Raw
    object: str = "embedding"


class Usage(msgspec.Struct):
    """Tokens that the model saw, special tokens included."""

    prompt_tokens: int
    total_tokens: int


class ResponseTail(msgspec.Struct):
    """What follows ``object`` and ``data`` in the answer of ``POST /v1/embeddings``."""

    model: str
    usage: Usage


class ModelObject(msgspec.Struct):
    """One model, as ``/v1/models`` lists it."""

    id: str
    created: int
    owned_by: str
    object: str = "model"


class ModelList(msgspec.Struct):
    """Answer of ``GET /v1/models``."""

    data: list[ModelObject]
    object: str = "list"


_decoder = msgspec.json.Decoder(EmbeddingRequest)
_encoder = msgspec.json.Encoder()


class OpenAIController(Controller):
    """The routes, at the root and under each model's name.

    A hub name has a slash in it, hence the two forms ``/{name}/v1`` and ``/{owner}/{name}/v1``.
    """

    @post(
        ["/v1/embeddings", "/{name:str}/v1/embeddings", "/{owner:str}/{name:str}/v1/embeddings"],
        status_code=200,
    )
    async def embeddings(
        self,
        request: Request[Any, Any, Any],
        engine: NamedDependency[Engine],
        owner: FromPath[str | None] = None,
        name: FromPath[str | None] = None,
    ) -> Response[bytes]:
        """Embed texts."""
        body = await read_json_body(
            request, engine.settings.request_timeout_seconds, engine.largest_payload
        )
        wanted = parse_body(body, _decoder)
        model = _choose_model(engine, owner, name, wanted.model)
        visit = visit_of(request)
        visit.check_model(model.names)
        check_body_size(body, model.settings)
        as_base64 = _wants_base64(wanted.encoding_format)
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
        with visit.spending(estimate_tokens(inputs.items)) as spent:
            work = engine.embed(model, inputs, options)
            result = await while_connected(request.receive, work)
            spent.tokens = result.tokens
        content = await off_the_loop(engine, result, lambda: _render(result, model.name, as_base64))
        headers = openai_headers(request) | {"server-timing": server_timing(result.timings)}
        return Response(content, media_type="application/json", headers=headers)

    @get(
        ["/v1/models", "/{name:str}/v1/models", "/{owner:str}/{name:str}/v1/models"],
        sync_to_thread=False,
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
            listed = [engine.model(_joined(owner, name))]
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


def _joined(owner: str | None, name: str) -> str:
    return name if owner is None else f"{owner}/{name}"


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
    if encoding_format not in (None, "float", "base64"):
        raise InvalidRequest(
            f"Invalid value for 'encoding_format' = {encoding_format}. Supported values:"
            " ['float', 'base64'].",
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
    model = engine.model(_joined(owner, name))
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
