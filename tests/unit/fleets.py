# SPDX-License-Identifier: Apache-2.0
"""Engines whose models do not all fit, with weights that are counted and moves that fail."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest

from appliance.engine.backend import Parking, Room
from appliance.engine.inputs import Inputs
from appliance.engine.jobs import Batch
from appliance.engine.service import Engine
from appliance.engine.types import EmbedOptions
from appliance.settings import ModelSettings, Settings
from tests.fakes import FakeBackend, FakeTokenizer, fake_vector
from tests.unit.tickets import PATIENCE

GIB = 2**30
SIZE = 100
"""Bytes of a model, where nothing else is said."""


class Tenant(FakeBackend):
    """A model whose weights are counted, by a house that it shares with others."""

    def __init__(self, house: House, name: str, device: str, size: int, **options: Any) -> None:
        super().__init__(
            sizes={device: size},
            before_move=partial(house.before_move, name),
            before_forward=partial(house.before_forward, name),
            **options,
        )
        self.name = name
        self.device_name = device
        self._house = house
        house.note(self, comes=True)

    def warm_up(self, batch_tokens: int) -> None:
        self._house.before_move(self.name, "warm up")

    def park(self, parking: Parking) -> None:
        super().park(parking)
        self._house.note(self, comes=False)

    def restore(self) -> None:
        self._house.note(self, comes=True)
        try:
            super().restore()
        except BaseException:
            self._house.note(self, comes=False)
            raise

    def close(self) -> None:
        super().close()
        self._house.note(self, comes=False)

    def _move(self, what: str, *, from_here: bool | None) -> None:
        try:
            super()._move(what, from_here=from_here)
        except AssertionError as error:
            self._house.faults.append(f"{self.name}: {error}")
            raise


@dataclass
class House:
    """Loads models, counts their weights, and breaks what tests want broken.

    Attributes:
        capacities: Bytes of each device.
        sizes: Bytes of each model, where not :data:`SIZE`.
        devices: Those that each model has a copy on.
        backends: All that were loaded.
        faults: What should never have happened.
        errors: What goes wrong at the next moves, by model and move: ``load``, ``warm up``,
            ``restore``, ``park``.
        on_move: Called with the model's name and the move before it.
        on_batch: Called with the model's name before a batch.
    """

    capacities: Mapping[str, int]
    sizes: Mapping[str, int] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu",)
    backends: list[Tenant] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    errors: dict[tuple[str, str], list[Exception]] = field(
        default_factory=lambda: defaultdict(list)
    )
    on_move: Callable[[str, str], None] = lambda name, what: None
    on_batch: Callable[[str], None] = lambda name: None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._here: set[Tenant] = set()

    def prepare(
        self, _settings: Settings, model: ModelSettings, _rooms: Mapping[str, Room]
    ) -> Prepared:
        return Prepared(self, model.name, self.sizes.get(model.name, SIZE))

    def before_move(self, name: str, what: str) -> None:
        self.on_move(name, what)
        if self.errors[name, what]:
            raise self.errors[name, what].pop()

    def before_forward(self, name: str, _batch: Batch) -> None:
        self.on_batch(name)

    def note(self, tenant: Tenant, *, comes: bool) -> None:
        """Count the weights, and see whether they fit."""
        with self._lock:
            (self._here.add if comes else self._here.discard)(tenant)
            used: dict[str, int] = defaultdict(int)
            for other in self._here:
                for device, size in other.sizes.items():
                    used[device] += size
            for device, size in used.items():
                if size > self.capacities[device]:
                    self.faults.append(f"{size} bytes on {device}")

    def moves(self, name: str) -> list[str]:
        """What was moved of a model so far, loads included."""
        return [
            move for tenant in self.backends if tenant.name == name
            for move in ("load", *tenant.moves)
        ]  # fmt: skip

    def check(self) -> None:
        """Raise whatever should never have happened."""
        assert not self.faults
        assert all(tenant.is_released for tenant in self.backends), "memory is not given back"


@dataclass
class Prepared:
    house: House
    name: str
    size: int

    def __post_init__(self) -> None:
        self.devices = self.house.devices
        self.sizes = [{device: self.size} for device in self.devices]

    def load(self, number: int) -> Tenant:
        self.house.before_move(self.name, "load")
        tenant = Tenant(self.house, self.name, self.devices[number], self.size)
        self.house.backends.append(tenant)
        return tenant


@asynccontextmanager
async def serving(
    house: House, *models: ModelSettings, host: int = 0, **options: Any
) -> AsyncIterator[Engine]:
    """An engine on devices that are as large as the house has it, with RAM behind them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "appliance.engine.fleet.device_capacities", lambda limit: {**house.capacities}
        )
        patch.setattr(
            "appliance.engine.fleet.host_capacity",
            lambda limit, *, offload: host if offload else 0,
        )
        settings = Settings(
            models=models,
            **{
                "turn_seconds": 0.01,
                "cpu_workers": 1,
                "automatic_cpu_offload": host > 0,
                **options,
            },
        )
        engine = Engine(settings, house.prepare)
        try:
            yield engine
        finally:
            await patiently(engine.stop())


async def patiently(work: Any) -> Any:
    """Wait, but not for ever."""
    return await asyncio.wait_for(work, PATIENCE)


async def ask(engine: Engine, name: str, text: str = "a text", **options: Any) -> None:
    """Embed a text, and see that the vector is its own."""
    options = {"normalize": False, **options}
    answer = await engine.embed(engine.model(name), Inputs([text]), EmbedOptions(**options))
    (ids,) = FakeTokenizer().encode([text])
    np.testing.assert_array_equal(answer.vectors, [fake_vector(ids)])


async def eventually(condition: Callable[[], bool]) -> None:
    """Let things happen until something holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        await asyncio.sleep(0.001)


def named(*names: str, **options: Any) -> list[ModelSettings]:
    """Models that are not loaded at the start."""
    return [ModelSettings(model=name, eager=False, **options) for name in names]
