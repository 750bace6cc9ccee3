# SPDX-License-Identifier: Apache-2.0
"""The engine's one door: :class:`Engine`."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from typing import Literal, TypeVar

from appliance.engine.answering import Answering, first_set
from appliance.engine.backend import Prepared, Room
from appliance.engine.calibration import Calibration, read_calibration
from appliance.engine.catalogue import Catalogue
from appliance.engine.lane import Lane
from appliance.engine.lifecycle import Lifecycle, Loader
from appliance.engine.requests import Requests
from appliance.engine.served import ServedModel
from appliance.engine.types import FloatMatrix
from appliance.engine.vocabulary import TokenVocabulary
from appliance.engine.watching import UNWATCHED, Watcher
from appliance.persistence import KeptModels
from appliance.settings import ModelSettings, Settings

__all__ = ["Engine", "Loader", "load_with_torch"]

logger = logging.getLogger(__name__)

CARE_SECONDS = 1.0
"""How often the devices are looked after."""

Result = TypeVar("Result")


def load_with_torch(
    settings: Settings, model: ModelSettings, rooms: Mapping[str, Room]
) -> Prepared:
    """The loader of real models.

    Raises:
        ApplianceError: There is no such model, or it cannot be served.
    """
    return _imported()(settings, model, rooms)


@cache
def _imported() -> Loader:
    """Import what loads models, and have the garbage collector pass over all that was imported.

    That are half a million objects that stay. It would go through them all while every thread
    waits, again and again: under many requests, and before, while they come, for a fifth of the
    time that the import takes. Before the first model is there, as what is passed over once is
    passed over for ever.
    """
    gc.disable()
    try:
        # Not at the top: torch and transformers take seconds to read, and the port answers
        # meanwhile.
        from appliance.engine.loading import prepare_model
    finally:
        gc.enable()
    gc.collect()
    gc.freeze()
    return prepare_model


class Engine(Requests):
    """All models of one instance. Create it inside a running event loop.

    Args:
        settings: The instance's settings.
        load: Finds one model. Unset: the real thing.
        kept: What was added and removed for good. Unset: no such thing is kept.
        watcher: Told of what happens.

    Attributes:
        settings: The instance's settings.
        session_id: Another one for each start.
        started: When it was made, in Unix seconds.
        models: The models, the default one first.
        catalogue: Knows them by name, adds and removes them.
        draining: Whether the server has been told to stop.
    """

    def __init__(
        self,
        settings: Settings,
        load: Loader | None = None,
        kept: KeptModels | None = None,
        watcher: Watcher = UNWATCHED,
    ) -> None:
        load = load or load_with_torch
        vocabulary = TokenVocabulary(settings.token_vocabulary_dir)
        super().__init__(
            Lifecycle(settings, load, self._begin_loading, watcher),
            Answering(vocabulary, watcher),
            watcher,
        )
        self.draining = False
        self.settings = settings
        self.session_id = str(uuid.uuid4())
        self.started = time.time()
        self._begun = time.monotonic()
        self.catalogue = Catalogue(settings, self.lifecycle, kept)
        self.models = self.catalogue.models
        self._background = ThreadPoolExecutor(1, "background")
        self._caretaker: asyncio.Task[None] | None = None
        self._stopped: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to load; returns at once."""
        for model in self.catalogue.first:
            self.lifecycle.begin_loading(model)
        self._caretaker = asyncio.create_task(self._look_after_devices())

    async def stop(self) -> None:
        """Let the batches in flight finish and end every thread."""
        if self._stopped is None:
            self._stopped = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopped)

    async def _look_after_devices(self) -> None:
        while True:
            await asyncio.sleep(CARE_SECONDS)
            try:
                self.lifecycle.fleet.look_after()
            except Exception:  # the next time may go better
                logger.exception("the devices could not be looked after")

    async def _stop(self) -> None:
        if self._caretaker is not None:
            self._caretaker.cancel()
        await self.catalogue.stop()
        await self.lifecycle.stop()
        self._background.shutdown(wait=False, cancel_futures=True)

    async def all_failed(self) -> bool:
        """Wait until each model that loads at the start has, and say whether all have failed."""
        for model in self.catalogue.first:
            await model.until_loaded()
        return bool(self.catalogue.first) and all(model.state == "failed" for model in self.models)

    @property
    def status(self) -> Literal["ok", "loading", "failed"]:
        """``ok`` once every model that loads at the start has run a forward pass or failed."""
        if self.fault:
            return "failed"
        if self.models and all(model.state == "failed" for model in self.models):
            return "failed"
        first = (model for model in self.catalogue.first if model in self.models)
        return "ok" if all(model.was_tried for model in first) else "loading"

    @property
    def fault(self) -> str:
        """What keeps a device from its work; empty if nothing does."""
        return self.lifecycle.fleet.fault

    @property
    def uptime_seconds(self) -> float:
        """Time since it was made, whatever the clock was set to meanwhile."""
        return time.monotonic() - self._begun

    @property
    def idle_seconds(self) -> float:
        """Time since the last request for an embedding ended; 0 while there is one."""
        return 0.0 if self.is_busy else time.monotonic() - self.last_action

    @property
    def is_busy(self) -> bool:
        """Whether there is a request for an embedding."""
        return any(model.requests for model in (*self.models, *self.catalogue.leaving))

    def model(self, name: str) -> ServedModel:
        """The model that answers to a name or an alias.

        Raises:
            ModelNotFound: There is none.
        """
        return self.catalogue.find(name)

    @property
    def largest_payload(self) -> int:
        """Bytes of the largest body that any model takes."""
        default: int = ModelSettings.model_fields["payload_limit"].default
        return max((model.settings.payload_limit for model in self.models), default=default)

    async def in_background(self, function: Callable[[], Result]) -> Result:
        """Run something that would hold up the event loop on a thread of its own."""
        return await asyncio.get_running_loop().run_in_executor(self._background, function)

    async def _begin_loading(self, model: ServedModel) -> Callable[[Lane], None]:
        source = await self.in_background(partial(read_calibration, model.settings.calibration))

        def loaded(lane: Lane) -> None:
            card = lane.backend.card
            prompts = {**card.prompts, **(model.settings.prompts or {})}
            model.card = replace(card, prompts=prompts)
            model.calibration = Calibration(
                model.name,
                source,
                dimension=lane.backend.dimension,
                normalized=first_set(model.settings.normalize, True),
                embed=partial(self._embed_plainly, model),
            )

        return loaded

    async def _embed_plainly(self, model: ServedModel, texts: Sequence[str]) -> FloatMatrix:
        async with self.lifecycle.use(model) as lane:
            return await self._answering.plain(model, lane, texts)
