# SPDX-License-Identifier: Apache-2.0
"""From what a client of Ollama's API sent to what the engine is asked, and back."""

from __future__ import annotations

import time

import msgspec

from appliance.engine.inputs import check_expiry
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.engine.types import EmbedOptions
from appliance.errors import InvalidRequest, ModelNotFound
from compat.durations import parse_duration
from compat.handling import model_name
from compat.ollama_models import find_model
from compat.ollama_types import OllamaEmbedTail

__all__ = ["choose_model", "embed_answer", "load_or_unload", "seconds_of"]

_encoder = msgspec.json.Encoder()


def choose_model(
    engine: Engine, owner: str | None, name: str | None, wanted: str | None
) -> ServedModel:
    """The model that a request is for, by its path or its body.

    Raises:
        InvalidRequest: It names none.
        ModelNotFound: There is none of that name.
    """
    if name is None:
        if not wanted:
            raise InvalidRequest("model is required", param="model")
        return find_model(engine, wanted)
    model = engine.model(model_name(owner, name))
    if wanted and find_model(engine, wanted) is not model:
        raise ModelNotFound(
            f'model "{wanted}" not found under this path, which serves "{model.name}"',
            param="model",
        )
    return model


def seconds_of(keep_alive: float | str | None) -> float | None:
    """Seconds that a model is to stay loaded; -1: for ever.

    Raises:
        InvalidRequest: It says no time.
    """
    if keep_alive is None:
        return None
    seconds = parse_duration(keep_alive) if isinstance(keep_alive, str) else keep_alive
    if seconds is None:
        raise InvalidRequest(
            f"'keep_alive' is invalid: {keep_alive!r} is neither seconds nor a duration such as"
            " '5m', '300ms' or '1h30m'; '-1' is for ever.",
            param="keep_alive",
        )
    return seconds if seconds >= 0 else -1.0


async def load_or_unload(engine: Engine, model: ServedModel, options: EmbedOptions) -> None:
    """Do what a request without input is for.

    Raises:
        ModelUnavailable: The model cannot be loaded.
    """
    check_expiry(options)
    if options.keep_alive == 0 and model.lane is None:
        return
    async with engine.lifecycle.use(model, options.keep_alive):
        if options.keep_alive != 0:
            await engine.catalogue.load(model)


def embed_answer(model: str, rows: bytes, began: float, loaded: float, tokens: int) -> bytes:
    """Write an answer of ``/api/embed``.

    Args:
        model: The name that was asked for.
        rows: The vectors, as JSON.
        began: When the request was read, by ``time.perf_counter``.
        loaded: When the model was there, likewise.
        tokens: Tokens that it saw.
    """
    total = round((time.perf_counter() - began) * 1e9)
    load = max(0, round((loaded - began) * 1e9))
    tail = _encoder.encode(OllamaEmbedTail(total, load, tokens))
    return b'{"model":%b,"embeddings":%b,%b' % (_encoder.encode(model), rows, tail[1:])
