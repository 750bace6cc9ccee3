# SPDX-License-Identifier: Apache-2.0
"""The models of the server as Ollama's API names and describes them. Nothing here wakes one."""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec

from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.engine.survey import Holding
from appliance.engine.types import ModelCard
from appliance.errors import ModelNotFound
from appliance.persistence import as_written
from compat.ollama_errors import unknown_model
from compat.ollama_types import (
    OllamaDetails,
    OllamaModel,
    OllamaRunningModel,
    OllamaShowResponse,
)

__all__ = ["describe", "find_model", "list_names", "running_model"]

_LATEST = ":latest"
_FOR_EVER = timedelta(days=36525)
"""What Ollama's own program shows as "Forever"."""

_LEVELS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
IN_MEMORY = ("active", "idle", "offloaded")


def find_model(engine: Engine, name: str) -> ServedModel:
    """The model of a name, with ``:latest`` behind it or without.

    Raises:
        ModelNotFound: There is none.
    """
    try:
        return engine.model(name)
    except ModelNotFound as error:
        if name.endswith(_LATEST):
            return find_model(engine, name.removesuffix(_LATEST))
        raise unknown_model(name, error) from None


def list_names(engine: Engine, model: ServedModel) -> list[OllamaModel]:
    """A model under each of its names, as Ollama lists the copies that it makes of one."""
    size = sum(_bytes_of(engine, model).values())
    details = _details_of(model)
    modified, digest = _moment(model.created), _digest(model)
    return [
        OllamaModel(tagged, tagged, modified, size, digest, details)
        for tagged in map(_tagged, model.names)
    ]


def running_model(engine: Engine, model: ServedModel) -> OllamaRunningModel | None:
    """A model that is in memory, or ``None``."""
    card = model.card
    if model.state not in IN_MEMORY or card is None:
        return None
    taken = _bytes_of(engine, model)
    del taken["disk"]
    tagged = _tagged(model.name)
    return OllamaRunningModel(
        name=tagged,
        model=tagged,
        size=sum(taken.values()),
        digest=_digest(model),
        details=_details_of(model),
        expires_at=_expiry(model),
        size_vram=sum(n for place, n in taken.items() if place not in ("cpu", "host")),
        context_length=card.max_input_tokens,
    )


def describe(model: ServedModel, card: ModelCard) -> OllamaShowResponse:
    """One model at length."""
    architecture = card.architecture or card.kind
    return OllamaShowResponse(
        details=_details_of(model),
        model_info={
            "general.architecture": architecture,
            "general.basename": model.name,
            f"{architecture}.context_length": card.max_input_tokens,
            f"{architecture}.embedding_length": card.dimension,
        },
        capabilities=["embedding"] if "dense" in card.gives else [],
        modified_at=_moment(model.created),
        modelfile=f"# {model.settings.model}",
    )


def _details_of(model: ServedModel) -> OllamaDetails:
    """What a model consists of, as far as that is known."""
    card = model.card
    family = "" if card is None else card.architecture or card.kind
    quantization = model.settings.quantization
    level = quantization.upper() if quantization != "none" else ""
    if card is not None and not level:
        level = _LEVELS.get(card.dtype, card.dtype.upper())
    return OllamaDetails("safetensors", family, [family] if family else [], level)


def _bytes_of(engine: Engine, model: ServedModel) -> Counter[str]:
    """What a model takes, by device; ``host`` and ``disk`` are where its weights are parked."""
    lane = model.lane_with_weights
    lanes = [] if lane is None else [lane]
    seen = engine.lifecycle.fleet.survey(lanes)
    has = Holding() if lane is None else seen.holdings[lane]
    return Counter({**has.devices, "host": has.parked, "disk": has.on_disk})


def _expiry(model: ServedModel) -> datetime:
    if model.expires is not None:
        left = max(0.0, model.expires - time.monotonic())
    else:
        left = model.keep_alive if model.keep_alive >= 0 else math.inf
    return datetime.now(UTC) + timedelta(seconds=min(left, _FOR_EVER.total_seconds()))


def _digest(model: ServedModel) -> str:
    return hashlib.sha256(msgspec.json.encode(as_written(model.settings))).hexdigest()


def _tagged(name: str) -> str:
    """A name as Ollama's clients expect it, with a tag."""
    return name if ":" in name.rpartition("/")[2] else name + _LATEST


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
