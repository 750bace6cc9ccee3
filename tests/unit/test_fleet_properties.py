# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to models that do not all fit, every request is answered, and rightly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.engine.backend import DeviceOutOfMemory, ParkingFailed, WeightsLost
from appliance.engine.service import Engine
from appliance.errors import ModelUnavailable
from tests.unit.fleets import SIZE, House, ask, named, patiently, serving

NAMES = ("one", "two", "three", "four")
FAULTS = {
    "load": [DeviceOutOfMemory, RuntimeError],
    "warm up": [DeviceOutOfMemory, RuntimeError],
    "restore": [DeviceOutOfMemory, RuntimeError, WeightsLost],
    "park": [ParkingFailed, RuntimeError],
}

names = st.sampled_from(NAMES)


class Fault(NamedTuple):
    name: str
    what: str
    error: type[Exception]


class Action(NamedTuple):
    what: str
    name: str
    number: int


faults = st.sampled_from(
    [Fault(name, what, error) for what, errors in FAULTS.items() for error in errors
     for name in NAMES]
)  # fmt: skip
actions = st.one_of(
    st.builds(Action, st.sampled_from(["ask", "ask", "ask", "ask once"]), names, st.integers(1, 9)),
    st.builds(Action, st.sampled_from(["park", "unload", "load"]), names, st.just(0)),
    st.builds(Action, st.just("leave"), names, st.integers(0, 20)),
    st.builds(Action, st.just("wait"), st.just(""), st.integers(0, 3)),
    faults,
)


class Script:
    """Carries out actions, and remembers who is still to be answered."""

    def __init__(self, engine: Engine, house: House) -> None:
        self._engine = engine
        self._house = house
        self._asked: list[asyncio.Task[None]] = []
        self._orders: list[asyncio.Task[Any]] = []
        self._left: set[asyncio.Task[None]] = set()
        self._has_faults = False

    async def play(self, action: Action | Fault) -> None:
        if isinstance(action, Fault):
            self._has_faults = True
            error = action.error("so the test has it")
            self._house.errors[action.name, action.what].append(error)
            return
        lifecycle = self._engine.lifecycle
        orders: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "park": lifecycle.park,
            "unload": lifecycle.unload,
            "load": lifecycle.bring_to_device,
        }
        if action.what in orders:
            order = orders[action.what](self._engine.model(action.name))
            self._orders.append(asyncio.ensure_future(order))
        elif action.what == "wait":
            await asyncio.sleep(action.number / 1000)
        elif action.what == "leave":
            if self._asked:
                leaver = self._asked[action.number % len(self._asked)]
                leaver.cancel()
                self._left.add(leaver)
        else:
            for number in range(action.number):
                keep_alive = 0 if action.what == "ask once" else None
                text = f"text {len(self._asked)} {number}"
                self._asked.append(
                    asyncio.create_task(ask(self._engine, action.name, text, keep_alive=keep_alive))
                )

    async def finish(self) -> None:
        await patiently(
            asyncio.wait({*self._asked, *self._orders, asyncio.create_task(_nothing())})
        )
        for task in (*self._asked, *self._orders):
            if task.cancelled():
                assert task in self._left
            elif isinstance(error := task.exception(), ModelUnavailable):
                assert self._has_faults, error
            elif error is not None:
                raise error


async def _nothing() -> None:
    """So that there is something to wait for."""


async def _play(script: list[Action | Fault], house: House, **options: Any) -> None:
    async with serving(house, *named(*NAMES), **options) as engine:
        play = Script(engine, house)
        for action in script:
            await play.play(action)
        await play.finish()
        house.errors.clear()
        for name in NAMES:
            await patiently(ask(engine, name))  # nothing is broken for good
        for name in NAMES:
            await patiently(engine.lifecycle.unload(engine.model(name)))
        house.check()


@pytest.mark.parametrize(
    ("devices", "options"),
    [
        (("cpu",), {"disk_swap": False}),
        (("cpu",), {"disk_swap": True, "cpu_workers": 2}),
        (("cuda:0",), {"host": 2 * SIZE}),
        (("cuda:0", "cuda:1"), {"host": 3 * SIZE}),
    ],
    ids=["loaded anew", "disk", "RAM", "two devices"],
)
@settings(max_examples=50)
@given(
    script=st.lists(actions, max_size=30),
    room=st.sampled_from([1, 2, 3]),
    pause=st.sampled_from([0, 0.001]),
)
def test_every_request_is_answered(
    devices: tuple[str, ...],
    options: dict[str, Any],
    script: list[Action | Fault],
    room: int,
    pause: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    house = House(
        dict.fromkeys(devices, room * SIZE),
        devices=devices,
        on_move=lambda name, what: time.sleep(pause),
        on_batch=lambda name: time.sleep(pause),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("appliance.engine.lifecycle.COOL_DOWN_SECONDS", 0.0)
        asyncio.run(_play(script, house, swap_dir=tmp_path_factory.getbasetemp(), **options))
