# SPDX-License-Identifier: Apache-2.0
"""What the instance does, and what it takes."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Literal

import msgspec
import psutil
from litestar import Controller, Response, get
from litestar.di import NamedDependency

from appliance import __version__
from appliance.api.descriptions import ModelStatus, TierName, moment, status_of, survey
from appliance.engine.copies import HOST, Tier
from appliance.engine.cores import available_cores
from appliance.engine.service import Engine
from appliance.engine.survey import Survey

__all__ = ["StatusController"]

InstanceState = Literal["active", "loading", "idle", "stopping"]


class InstanceStatus(msgspec.Struct):
    """The process.

    Attributes:
        name: As set.
        project: As set.
        queue: As set.
        route: As set.
        session_id: Another one for each start.
        version: Of the program.
        started: When it was.
        uptime_seconds: Time since then.
        state: ``active`` while it works on a request; ``loading`` until the models that load at
            the start have.
        health: As in ``/health``.
        last_action: When the last request for an embedding came or ended; the start if none did.
        idle_seconds: Time since then; 0 while there is one.
    """

    name: str
    project: str | None
    queue: str | None
    route: str | None
    session_id: str
    version: str
    started: datetime
    uptime_seconds: float
    state: InstanceState
    health: Literal["ok", "loading", "failed"]
    last_action: datetime
    idle_seconds: float


class Memory(msgspec.Struct):
    """A device's memory, or the RAM that models may be parked in.

    Attributes:
        capacity_bytes: What all models together may take.
        used_bytes: What they take, or are about to.
    """

    capacity_bytes: int
    used_bytes: int


class Resources(msgspec.Struct):
    """What the process has and takes.

    Attributes:
        devices: By name; empty until the first model is loaded.
        host: RAM beside accelerators in which models are parked.
        disk_bytes: Disk that parked models take, beside their own files.
        rss_bytes: RAM that the process takes, files mapped into memory included.
        cpu_count: Cores that it may use.
    """

    devices: dict[str, Memory]
    host: Memory
    disk_bytes: int
    rss_bytes: int
    cpu_count: int


class Swaps(msgspec.Struct, rename={"origin": "from"}):
    """Moves from one tier to another.

    Attributes:
        origin: Where weights were; ``none``: nowhere but in the model's own files.
        to: Where they went.
        times: How often.
        bytes: Bytes of weights, all moves together.
        seconds: What they took, all together.
        longest_seconds: What the longest took.
    """

    origin: TierName
    to: TierName
    times: int
    bytes: int
    seconds: float
    longest_seconds: float


class Status(msgspec.Struct):
    """Answer of ``GET /api/status``.

    Attributes:
        instance: The process.
        models: The models, the default one first.
        resources: What the process has and takes.
        swaps: How often weights have moved, by where from and where to.
    """

    instance: InstanceStatus
    models: list[ModelStatus]
    resources: Resources
    swaps: list[Swaps]


class StatusController(Controller):
    """For those who watch. Asking wakes no model and keeps none loaded."""

    tags = ("Status",)

    @get("/api/status", sync_to_thread=False)
    def status(self, engine: NamedDependency[Engine]) -> Response[Status]:
        """State of the instance and of each model."""
        seen = survey(engine, *engine.models)
        models = [status_of(engine, model, seen) for model in engine.models]
        return Response(Status(_instance(engine), models, _resources(seen), _swaps(seen)))


def _instance(engine: Engine) -> InstanceStatus:
    now = time.time()
    idle = engine.idle_seconds
    return InstanceStatus(
        name=engine.settings.name,
        project=engine.settings.project,
        queue=engine.settings.queue,
        route=engine.settings.route,
        session_id=engine.session_id,
        version=__version__,
        started=moment(engine.started),
        uptime_seconds=round(engine.uptime_seconds, 3),
        state=_state(engine),
        health=engine.status,
        last_action=moment(now - idle),
        idle_seconds=round(idle, 3),
    )


def _state(engine: Engine) -> InstanceState:
    if engine.draining:
        return "stopping"
    if engine.status == "loading":
        return "loading"
    return "active" if engine.is_busy else "idle"


def _resources(seen: Survey) -> Resources:
    memory = {name: Memory(room.capacity, room.used) for name, room in seen.rooms.items()}
    host = memory.pop(HOST, Memory(0, 0))
    rss = psutil.Process().memory_info().rss
    return Resources(memory, host, seen.on_disk, rss, available_cores())


def _swaps(seen: Survey) -> list[Swaps]:
    return [
        Swaps(
            _name(origin),
            _name(to),
            moved.times,
            moved.bytes,
            round(moved.seconds, 6),
            round(moved.longest, 6),
        )
        for (origin, to), moved in seen.moved.items()
    ]


def _name(tier: Tier) -> TierName:
    return "none" if tier == "source" else tier
