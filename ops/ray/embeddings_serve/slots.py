# SPDX-License-Identifier: Apache-2.0
"""The models that a replica holds: a few of many, and Ray knows which."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from ray import serve

from appliance.engine.backend import Prepared, Room
from appliance.engine.service import Engine, load_with_torch
from appliance.settings import ModelSettings, Settings

__all__ = ["Slots"]


class _Slot:
    """What Ray's cache holds for a model.

    Args:
        leave: Has the model unloaded.

    Attributes:
        loading: The load that it was taken for.
    """

    def __init__(self, leave: Callable[[], Awaitable[None]]) -> None:
        self.loading: asyncio.Task[None] | None = None
        # Of the object, not of its class: Ray awaits it when it evicts the model, while Python's
        # collector looks for one of the class.
        self.__del__ = leave


class Slots:
    """Bounds how many models are loaded, by Ray's model multiplexing. Belongs to the event loop.

    A slot is taken where a model is about to be loaded, whatever for, so that a request which is
    refused costs no model its place. Who has to go is unloaded first, once its work is done.

    Args:
        most: How many.

    Attributes:
        engine: Loads and unloads them; to be set before anything is loaded.
    """

    engine: Engine

    def __init__(self, most: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._slots: dict[str, _Slot] = {}

        async def take(name: str) -> _Slot:
            slot = self._slots[name] = _Slot(partial(self._leave, name))
            return slot

        self._take: Callable[[str], Awaitable[_Slot]]
        self._take = serve.multiplexed(max_num_models_per_replica=most)(take)

    @property
    def names(self) -> list[str]:
        """The models that have a slot."""
        return list(self._slots)

    def load(self, settings: Settings, model: ModelSettings, rooms: Mapping[str, Room]) -> Prepared:
        """Load a model, once it has a slot; a loader of the engine's, called on a thread of its.

        Raises:
            ApplianceError: It cannot be served.
        """
        asyncio.run_coroutine_threadsafe(self._enter(model.name), self._loop).result()
        return load_with_torch(settings, model, rooms)

    async def touch(self, name: str) -> None:
        """Note that a model is asked for, if it has a slot."""
        if name in self._slots:
            await self._take(name)

    async def _enter(self, name: str) -> None:
        slot = await self._take(name)
        slot.loading = self.engine.model(name).loading

    async def _leave(self, name: str) -> None:
        slot = self._slots.pop(name)
        model = self.engine.model(name)
        if model.is_loading:
            if model.loading is not slot.loading:
                return  # another load, which waits for its turn and then takes a slot anew
            await model.until_loaded()
        if model.lane is not None:
            await self.engine.lifecycle.unload(model)
