# SPDX-License-Identifier: Apache-2.0
"""What a body of OpenAI's embeddings API asks of the engine, and how that is answered.

Shared by the route and by batches, which are files of such bodies.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterator
from typing import cast
from weakref import WeakKeyDictionary

import msgspec

from appliance.engine.inputs import Inputs
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.engine.types import Embedding, EmbedOptions, Priority, SparseEmbedding
from appliance.errors import InvalidRequest, ModelNotFound
from compat.handling import model_name
from compat.openai_types import (
    ENCODING_FORMATS,
    EmbeddingObject,
    EmbeddingRequest,
    ResponseTail,
    Usage,
)
from compat.rendering import render_sparse, render_vector

__all__ = ["ask", "choose_model", "decoder", "inputs_of", "render", "wants_base64"]

logger = logging.getLogger(__name__)

MOST_NAMES_TOLD = 100
MOST_CHARACTERS_TOLD = 100

_told: WeakKeyDictionary[Engine, set[str]] = WeakKeyDictionary()
"""Names of models that are not served, of which the log knows already."""

decoder = msgspec.json.Decoder(EmbeddingRequest)
_encoder = msgspec.json.Encoder()
_NO_NUMBERS = msgspec.Raw(b"[]")


def ask(
    engine: Engine,
    model: ServedModel,
    inputs: Inputs,
    wanted: EmbeddingRequest,
    priority: Priority | None = None,
) -> Awaitable[Embedding | SparseEmbedding]:
    """Have a request worked on.

    Args:
        engine: The engine.
        model: The model that it is for.
        inputs: Its texts.
        wanted: What it asks for beside them.
        priority: In place of the one that it asks for.
    """
    options = _options(wanted, priority)
    if wanted.output_type == "sparse":
        return engine.embed_sparse(model, inputs, options)
    return engine.embed(model, inputs, options)


def _options(wanted: EmbeddingRequest, priority: Priority | None) -> EmbedOptions:
    return EmbedOptions(
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
        priority=priority or wanted.priority or "normal",
    )


def inputs_of(value: str | list[str | int | list[int]]) -> Inputs:
    """Tell the four forms of ``input`` apart.

    Raises:
        InvalidRequest: It is a mixture of them.
    """
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


def wants_base64(encoding_format: str | None) -> bool:
    """Whether vectors are to be written as their bytes.

    Raises:
        InvalidRequest: It is neither of what there is.
    """
    if encoding_format not in (None, *ENCODING_FORMATS):
        raise InvalidRequest(
            f"Invalid value for 'encoding_format' = {encoding_format}. Supported values:"
            f" {list(ENCODING_FORMATS)}.",
            param="encoding_format",
        )
    return encoding_format == "base64"


def choose_model(
    engine: Engine,
    owner: str | None,
    name: str | None,
    wanted: str | None,
    *,
    may_be_unnamed: bool = False,
) -> ServedModel:
    """The model that a request is for.

    Where ``any_model_name`` is set, a name that is not served stands for the model of the path, or
    for the default one.

    Args:
        engine: The engine.
        owner: In its path, if a hub name is.
        name: In its path, if one is.
        wanted: In its body.
        may_be_unnamed: No name means the default model, whatever is set.

    Raises:
        InvalidRequest: It names none.
        ModelNotFound: There is none of this name, or it is not the one of the path.
    """
    of_path = None if name is None else engine.model(model_name(owner, name))
    takes_any = engine.settings.any_model_name
    if not wanted:
        if of_path is None and not (takes_any or may_be_unnamed):
            raise InvalidRequest("You must provide a 'model'.", param="model")
        return of_path or _default_model(engine)
    try:
        model = engine.model(wanted)
    except ModelNotFound:
        if not takes_any:
            raise
        model = of_path or _default_model(engine)
        _tell_once(engine, wanted, model)
    if of_path not in (None, model):
        raise ModelNotFound(
            f"The model '{wanted}' does not exist under this path, which serves"
            f" '{model_name(owner, name or '')}'.",
            param="model",
        )
    return model


def _default_model(engine: Engine) -> ServedModel:
    if not engine.models:
        raise ModelNotFound("No model is served.", param="model")
    return engine.models[0]


def _tell_once(engine: Engine, wanted: str, model: ServedModel) -> None:
    told = _told.setdefault(engine, set())
    if wanted in told or len(told) >= MOST_NAMES_TOLD:
        return
    told.add(wanted)
    logger.warning(
        "no model is called %r; such requests are answered by %r, as any_model_name is set%s",
        wanted[:MOST_CHARACTERS_TOLD],
        model.name,
        "; no further names are told of" if len(told) == MOST_NAMES_TOLD else "",
    )


def render(result: Embedding | SparseEmbedding, model: str, as_base64: bool) -> bytes:
    """Write an answer row by row, so that other threads get their turn in between."""
    answer = bytearray(b'{"object":"list","data":[')
    for row in _objects(result, as_base64):
        if row.index:
            answer += b","
        _encoder.encode_into(row, answer, -1)
    tail = _encoder.encode(ResponseTail(model, Usage(result.tokens, result.tokens)))
    return bytes(answer + b"]," + tail[1:])


def _objects(result: Embedding | SparseEmbedding, as_base64: bool) -> Iterator[EmbeddingObject]:
    if isinstance(result, Embedding):
        for index, vector in enumerate(result.vectors):
            yield EmbeddingObject(index, render_vector(vector, as_base64))
        return
    # OpenAI's SDKs decode an embedding of base64 before anybody sees it: they take an empty list as
    # it is, where they would stumble over none.
    for index, row in enumerate(result.rows):
        yield EmbeddingObject(index, _NO_NUMBERS, sparse_embedding=render_sparse(row))
