# SPDX-License-Identifier: Apache-2.0
"""What is read of the engine when somebody asks: its own counts, its models and their memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import get_args

from opentelemetry.metrics import Meter

from appliance.engine.copies import Tier
from appliance.engine.execution import Executor
from appliance.engine.served import ModelState, ServedModel
from appliance.engine.service import Engine
from appliance.engine.survey import Holding, Survey
from appliance.telemetry.instruments import ModelNames
from appliance.telemetry.observing import Observer, Point, Recent, observer

__all__ = ["observe_engine", "waiting_texts"]

STATES: tuple[ModelState, ...] = get_args(ModelState)


@dataclass(frozen=True, slots=True)
class _Model:
    """A model at one moment."""

    attributes: dict[str, str]
    state: ModelState
    requests: int
    holding: Holding
    executors: list[Executor]


class _EnginePicture:
    """An engine at one moment.

    Args:
        engine: The engine.
        names: Names of models.
    """

    def __init__(self, engine: Engine, names: ModelNames) -> None:
        served = [*engine.models, *engine.catalogue.leaving]
        held = _survey(engine)
        self.survey: Survey = held
        self.models = [_seen(model, held, names) for model in served]

    def each(self, value: Callable[[_Model], float]) -> Iterator[Point]:
        """One point a model."""
        return ((value(model), model.attributes) for model in self.models)

    def states(self) -> Iterator[Point]:
        """1 for the state that a model is in, 0 for the others."""
        for model in self.models:
            for state in STATES:
                yield int(model.state == state), {**model.attributes, "state": state}

    def memory(self) -> Iterator[Point]:
        """Bytes that a model takes of each tier."""
        for model in self.models:
            held = model.holding
            tiers = {"device": sum(held.devices.values()), "host": held.parked}
            for tier, size in {**tiers, "disk": held.on_disk}.items():
                yield size, {**model.attributes, "tier": tier}

    def fidelity(self) -> Iterator[Point]:
        """Of those models of which it was measured."""
        for model in self.models:
            found = [getattr(each.backend, "fidelity", None) for each in model.executors]
            measured = [value for value in found if value is not None]
            if measured:
                yield min(measured), model.attributes

    def moves(self, what: str) -> Iterator[Point]:
        """Something of the moves, by where from and where to."""
        for (origin, to), moved in self.survey.moved.items():
            yield getattr(moved, what), {"from": _named(origin), "to": _named(to)}

    def rooms(self, what: str) -> Iterator[Point]:
        """Something of the memory of each device."""
        for device, room in self.survey.rooms.items():
            yield getattr(room, what), {"device": device}


def _survey(engine: Engine) -> Survey:
    lanes = [model.lane_with_weights for model in (*engine.models, *engine.catalogue.leaving)]
    return engine.lifecycle.fleet.survey(lane for lane in lanes if lane is not None)


def waiting_texts(engine: Engine) -> int:
    """Texts that wait for a batch, of all models. On any thread."""
    return sum(held.waiting_texts for held in _survey(engine).holdings.values())


def _seen(model: ServedModel, survey: Survey, names: ModelNames) -> _Model:
    lane = model.lane_with_weights
    return _Model(
        {"model": names(model.name)},
        model.state,
        model.requests,
        Holding() if lane is None else survey.holdings.get(lane, Holding()),
        [] if lane is None else [p.executor for p in lane.places.values() if p.executor],
    )


def _named(tier: Tier) -> str:
    return "none" if tier == "source" else tier


def observe_engine(meter: Meter, engine: Engine, names: ModelNames) -> None:
    """Let an engine be read.

    Args:
        meter: Makes the instruments.
        engine: The engine. It is read on any thread, and no model is woken.
        names: Names of models.
    """
    seen = Recent(lambda: _EnginePicture(engine, names))
    gauge = meter.create_observable_gauge
    level = meter.create_observable_up_down_counter
    count = meter.create_observable_counter

    def each(value: Callable[[_Model], float]) -> list[Observer]:
        return observer(lambda: seen().each(value))

    def alone(value: Callable[[], float]) -> list[Observer]:
        return observer(lambda: [(value(), {})])

    level(
        "appliance.queue.tokens",
        each(lambda model: model.holding.waiting_tokens),
        "{token}",
        "Tokens that wait for a batch.",
    )
    level(
        "appliance.queue.requests",
        each(lambda model: model.holding.waiting_requests),
        "{request}",
        "Requests of which texts wait for a batch.",
    )
    level(
        "appliance.model.requests",
        each(lambda model: model.requests),
        "{request}",
        "Requests for embeddings that are being worked on.",
    )
    level(
        "appliance.model.state",
        observer(lambda: seen().states()),
        "{model}",
        "1 for the state that a model is in, 0 for the others.",
    )
    level(
        "appliance.model.memory",
        observer(lambda: seen().memory()),
        "By",
        "Memory that a model takes, by tier.",
    )
    gauge(
        "appliance.model.fidelity",
        observer(lambda: seen().fidelity()),
        "1",
        "Least cosine of a quantised model's vectors to those of float32.",
    )
    count(
        "appliance.texts.recomputed",
        each(lambda model: sum(each.recomputed for each in model.executors)),
        "{text}",
        "Texts computed once more in float32, since the model was loaded.",
    )
    count(
        "appliance.batches.split",
        each(lambda model: sum(each.overflows for each in model.executors)),
        "{batch}",
        "Batches that did not fit in memory, since the model was loaded.",
    )
    count(
        "appliance.swaps",
        observer(lambda: seen().moves("times")),
        "{swap}",
        "Moves of weights between tiers, loads among them.",
    )
    count(
        "appliance.swap.io",
        observer(lambda: seen().moves("bytes")),
        "By",
        "Weights moved between tiers.",
    )
    count(
        "appliance.swap.time",
        observer(lambda: seen().moves("seconds")),
        "s",
        "Time that moves of weights took.",
    )
    level(
        "appliance.device.memory.limit",
        observer(lambda: seen().rooms("capacity")),
        "By",
        "Memory of a device that weights may take.",
    )
    level(
        "appliance.device.memory.usage",
        observer(lambda: seen().rooms("used")),
        "By",
        "Memory of a device that weights take.",
    )
    gauge(
        "appliance.idle.time",
        alone(lambda: engine.idle_seconds),
        "s",
        "Time since the last request for embeddings ended; 0 while there is one.",
    )
    gauge(
        "appliance.last_action.age",
        alone(lambda: time.monotonic() - engine.last_action),
        "s",
        "Time since the last request for embeddings came or ended.",
    )
    gauge("process.uptime", alone(lambda: engine.uptime_seconds), "s", "Time since the start.")
