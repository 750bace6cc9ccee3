# SPDX-License-Identifier: Apache-2.0
"""Models as the management routes describe them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from appliance.engine.lifecycle import COOL_DOWN_SECONDS
from appliance.engine.served import ModelState, ServedModel
from appliance.engine.service import Engine
from appliance.engine.survey import Holding, Survey
from appliance.persistence import as_written
from appliance.published import published

__all__ = ["ModelDescription", "ModelStatus", "describe", "moment", "status_of", "survey"]

TierName = Literal["device", "host", "disk", "none"]


class Bytes(msgspec.Struct):
    """What a model takes.

    Attributes:
        devices: Memory by device.
        host: RAM for weights that are parked there, or will be again.
        disk: Disk likewise; 0 for weights that are read back from the model's own files.
    """

    devices: dict[str, int]
    host: int
    disk: int


class ModelStatus(msgspec.Struct):
    """One model, in ``GET /api/status``.

    Attributes:
        name: The name that answers carry.
        aliases: What else it answers to.
        endpoint: URL of its own route if the setting ``route`` is one, else its path, the one of
            ``route`` included.
        state: Where it stands.
        reason: Why it failed; ``null`` if it did not.
        retry_after: Seconds until it may be tried again, after a failure.
        tier: Where its weights are; ``none``: nowhere but in its own files.
        bytes: What it takes.
        revision: The hub's commit that it was loaded from; ``null`` while it is not loaded, and for
            a model from elsewhere.
        dtype: As set.
        quantization: As set.
        eager: Whether it is loaded at the start.
        pinned: Whether its place on the device is its own for ever.
        keep_alive: Seconds that it stays loaded after its last request; -1: for ever.
        expires_in: Seconds until that has passed; ``null`` while it is in use, or for ever.
        queue_depth: Requests that wait, in whole or in part.
        queue_tokens: Tokens of their texts that wait.
        requests_in_progress: Requests being worked on, those that wait included.
        requests_answered: Requests that had their vectors.
        tokens: Tokens embedded.
        last_used: When the last request for it ended; ``null`` if there was none.
        swaps: How often its weights have moved, loading included.
    """

    name: str
    aliases: tuple[str, ...]
    endpoint: str
    state: ModelState
    reason: str | None
    retry_after: float | None
    tier: TierName
    bytes: Bytes
    revision: str | None
    dtype: str
    quantization: str
    eager: bool
    pinned: bool
    keep_alive: float
    expires_in: float | None
    queue_depth: int
    queue_tokens: int
    requests_in_progress: int
    requests_answered: int
    tokens: int
    last_used: datetime | None
    swaps: int


class ModelDescription(ModelStatus):
    """One model, as ``/api/models`` describes it.

    Attributes:
        created: When it was configured or added.
        persisted: Whether it was added for good.
        settings: What was set for it, as an object of the setting ``models``.
    """

    created: datetime
    persisted: bool
    settings: dict[str, Any]


def survey(engine: Engine, *models: ServedModel) -> Survey:
    """Look at what some models have, at one moment."""
    lanes = (model.lane_with_weights for model in models)
    return engine.lifecycle.fleet.survey(lane for lane in lanes if lane is not None)


def status_of(engine: Engine, model: ServedModel, seen: Survey) -> ModelStatus:
    """One model's state."""
    return ModelStatus(**_status(engine, model, seen))


def describe(engine: Engine, model: ServedModel, seen: Survey | None = None) -> ModelDescription:
    """One model's state and settings."""
    return ModelDescription(
        **_status(engine, model, survey(engine, model) if seen is None else seen),
        created=moment(model.created),
        persisted=engine.catalogue.is_kept(model),
        settings=as_written(model.settings),
    )


def moment(seconds: float) -> datetime:
    """A time in Unix seconds, as JSON is to have it: in UTC, to the millisecond."""
    return datetime.fromtimestamp(round(seconds, 3), UTC)


def _status(engine: Engine, model: ServedModel, seen: Survey) -> dict[str, Any]:
    now = time.monotonic()
    settings = model.settings
    lane = model.lane_with_weights
    has = Holding() if lane is None else seen.holdings[lane]
    left = model.failed_at + COOL_DOWN_SECONDS - now if model.reason else 0.0
    return {
        "name": model.name,
        "aliases": settings.aliases,
        "endpoint": published(engine.settings.route, f"/{model.name}/v1/embeddings"),
        "state": model.state,
        "reason": model.reason or None,
        "retry_after": round(left, 3) if left > 0 else None,
        "tier": "none" if has.tier == "source" else has.tier,
        "bytes": Bytes(dict(has.devices), has.parked, has.on_disk),
        "revision": None if model.lane is None else model.lane.backend.revision,
        "dtype": settings.dtype,
        "quantization": settings.quantization,
        "eager": settings.eager,
        "pinned": settings.pinned,
        "keep_alive": model.keep_alive,
        "expires_in": None if model.expires is None else round(max(0, model.expires - now), 3),
        "queue_depth": has.waiting_requests,
        "queue_tokens": has.waiting_tokens,
        "requests_in_progress": model.requests,
        "requests_answered": model.answered,
        "tokens": model.tokens,
        "last_used": None if model.last_used is None else moment(model.last_used),
        "swaps": seen.swaps.get(model.name, 0),
    }
