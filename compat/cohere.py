# SPDX-License-Identifier: Apache-2.0
"""Cohere's embed API, in its second version and its first.

Wire format: https://docs.cohere.com/reference/embed and https://docs.cohere.com/v1/reference/embed.
Several kinds of vectors are made of one pass through the model.
"""

from __future__ import annotations

import uuid
from functools import partial
from typing import Any, Literal

import msgspec
from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from appliance.engine.inputs import Inputs
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.engine.types import Embedding, EmbedOptions, InputType, OutputDtype
from appliance.engine.vectors import finish_vectors
from appliance.errors import (
    InvalidRequest,
    ModelNotFound,
)
from appliance.openapi.headers import QUOTA_HEADERS
from appliance.openapi.operations import WORK_ERRORS, operation
from appliance.telemetry.middleware import EMBEDS
from appliance.telemetry.notes import note_encoding
from compat.cohere_errors import REFUSALS
from compat.cohere_types import (
    CohereEmbedRequest,
    CohereEmbedResponse,
    CohereEmbedResponseV1,
    CohereHead,
    CohereTail,
    EmbeddingType,
    version_meta,
)
from compat.handling import admit, model_name, read_request, work_on
from compat.rendering import off_the_loop, render_rows, server_timing

__all__ = ["CohereController"]

Version = Literal["1", "2"]

_decoder = msgspec.json.Decoder(CohereEmbedRequest)
_encoder = msgspec.json.Encoder()

_INPUT_TYPES: dict[str | None, InputType | None] = {
    "search_query": "query",
    "search_document": "document",
    "classification": "classification",
    "clustering": "clustering",
    None: None,
}
_DTYPES: dict[EmbeddingType, OutputDtype] = {
    "float": "float",
    "int8": "int8",
    "uint8": "uint8",
    "binary": "binary",
    "ubinary": "ubinary",
    "base64": "float",
}

_embeds = partial(
    operation,
    *WORK_ERRORS,
    body=CohereEmbedRequest,
    example={
        "model": "all-MiniLM-L6-v2",
        "input_type": "search_document",
        "texts": ["Hello, world"],
        "embedding_types": ["float", "int8"],
    },
    headers=("server-timing", *QUOTA_HEADERS),
    refusals=REFUSALS,
)


class CohereController(Controller):
    """The routes, at the root and under each model's name."""

    tags = ("Cohere",)

    @post(
        ["/v2/embed", "/{name:str}/v2/embed", "/{owner:str}/{name:str}/v2/embed"],
        status_code=200,
        opt={EMBEDS: True},
        operation_class=_embeds(answers={200: CohereEmbedResponse}),
    )
    async def embed(
        self,
        request: Request[Any, Any, Any],
        engine: NamedDependency[Engine],
        owner: FromPath[str | None] = None,
        name: FromPath[str | None] = None,
    ) -> Response[bytes]:
        """Embed texts."""
        return await _embed(request, engine, owner, name, "2")

    @post(
        ["/v1/embed", "/{name:str}/v1/embed", "/{owner:str}/{name:str}/v1/embed"],
        status_code=200,
        opt={EMBEDS: True},
        operation_class=_embeds(answers={200: CohereEmbedResponseV1}),
    )
    async def embed_v1(
        self,
        request: Request[Any, Any, Any],
        engine: NamedDependency[Engine],
        owner: FromPath[str | None] = None,
        name: FromPath[str | None] = None,
    ) -> Response[bytes]:
        """Embed texts, as clients did before there was ``/v2/embed``."""
        return await _embed(request, engine, owner, name, "1")


async def _embed(
    request: Request[Any, Any, Any],
    engine: Engine,
    owner: str | None,
    name: str | None,
    version: Version,
) -> Response[bytes]:
    asked = await read_request(request, engine, _decoder)
    wanted = asked.body
    model = _choose_model(engine, owner, name, wanted.model)
    visit = admit(request, model, asked)
    if version == "2" and wanted.input_type is None:
        raise InvalidRequest("You must provide 'input_type'.", param="input_type")
    inputs = _inputs(wanted)
    kinds = _kinds(wanted, version)
    note_encoding("base64" if kinds == ["base64"] else "float")
    options = _options(wanted, kinds or ["float"])
    result = await work_on(request, visit, inputs, engine.embed(model, inputs, options))
    texts = [str(item) for item in inputs.items]
    content = await off_the_loop(engine, result, lambda: _render(result, kinds, texts, version))
    headers = {"server-timing": server_timing(result.timings)}
    return Response(content, media_type="application/json", headers=headers)


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
            f"'{wanted}' does not exist under this path, which serves '{model.name}'.",
            param="model",
        )
    return model


def _inputs(wanted: CohereEmbedRequest) -> Inputs:
    if wanted.images:
        raise InvalidRequest("images cannot be embedded: models here read text.", param="images")
    if (wanted.texts is None) is (wanted.inputs is None):
        raise InvalidRequest("You must provide either 'texts' or 'inputs'.", param="texts")
    if wanted.texts is not None:
        return Inputs(wanted.texts, field="texts")
    items = wanted.inputs or []
    joined = ["\n".join(piece.text for piece in item.content) for item in items]
    return Inputs(joined, field="inputs")


def _kinds(wanted: CohereEmbedRequest, version: Version) -> list[EmbeddingType]:
    """Kinds of vectors, each once; none: the first version's plain list."""
    default: list[EmbeddingType] = [] if version == "1" else ["float"]
    return list(dict.fromkeys(wanted.embedding_types or default))


def _options(wanted: CohereEmbedRequest, kinds: list[EmbeddingType]) -> EmbedOptions:
    return EmbedOptions(
        dimensions=wanted.output_dimension,
        also=tuple(dict.fromkeys(_DTYPES[kind] for kind in kinds)),
        truncate=wanted.truncate != "NONE",
        truncation_direction="left" if wanted.truncate == "START" else "right",
        max_tokens=wanted.max_tokens,
        input_type=_INPUT_TYPES[wanted.input_type],
        priority="low" if wanted.priority else "normal",
    )


def _render(
    result: Embedding, kinds: list[EmbeddingType], texts: list[str], version: Version
) -> bytes:
    form: Literal["embeddings_by_type", "embeddings_floats"]
    form = "embeddings_by_type" if kinds else "embeddings_floats"
    head = _encoder.encode(CohereHead(str(uuid.uuid4()), form))
    tail = _encoder.encode(CohereTail(texts, version_meta(version, result.tokens)))
    by_kind = (b'"%b":%b' % (kind.encode(), _rows(result, kind)) for kind in kinds)
    embeddings = b"{" + b",".join(by_kind) + b"}" if kinds else render_rows(result.vectors)
    return b'%b,"embeddings":%b,%b' % (head[:-1], embeddings, tail[1:])


def _rows(result: Embedding, kind: EmbeddingType) -> bytes:
    """Vectors of one kind, made of those that the engine gave, which are cut and scaled already."""
    vectors = finish_vectors(
        result.vectors,  # type: ignore[arg-type]  # float32, as no other dtype was asked for
        dimensions=None,
        normalize=False,
        output_dtype=_DTYPES[kind],
        ranges=result.ranges,
    )
    return render_rows(vectors, as_base64=kind == "base64")
