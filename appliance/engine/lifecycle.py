# SPDX-License-Identifier: Apache-2.0
"""Models that come and go: loaded, kept, unloaded, added and removed while the server runs.

What lies on a device, and when, is decided below, by :mod:`appliance.engine.residency`; here a
model is loaded for its first request and unloaded when nobody wants it any more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from appliance.engine.backend import Prepared, Room
from appliance.engine.fleet import Fleet
from appliance.engine.lane import Lane
from appliance.engine.served import ServedModel
from appliance.engine.watching import UNWATCHED, LoadReport, Watcher
from appliance.errors import ApplianceError, ModelUnavailable
from appliance.settings import ModelSettings, Settings

__all__ = ["Lifecycle", "Loader"]

logger = logging.getLogger(__name__)

Loader = Callable[[Settings, ModelSettings, Mapping[str, Room]], Prepared]
"""Finds and measures one model, given the devices that there are. Called on a thread of its own."""

COOL_DOWN_SECONDS = 10.0
"""Time after a failure in which a model is not tried again."""


class Lifecycle:
    """The models' states, and the devices that they are on. Belongs to the event loop.

    Args:
        settings: The instance's settings.
        load: Loads one model.
        on_loading: Called before a model is loaded. What it returns is called once it has been,
            before any request is let to it.
        watcher: Told of loads, moves and batches.

    Attributes:
        fleet: The devices.
    """

    def __init__(
        self,
        settings: Settings,
        load: Loader,
        on_loading: Callable[[ServedModel], Awaitable[Callable[[Lane], None]]],
        watcher: Watcher = UNWATCHED,
    ) -> None:
        self._settings = settings
        self._load = load
        self._on_loading = on_loading
        self._watcher = watcher
        self._loop = asyncio.get_running_loop()
        self._models: dict[Lane, ServedModel] = {}
        self._arrivals: dict[Lane, asyncio.Future[None]] = {}
        self._timers: dict[ServedModel, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False
        self.fleet = Fleet(settings, self._on_change, watcher)

    async def stop(self) -> None:
        """Let the batches in flight finish, end every thread, and give all memory back."""
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        for model in self._models.values():
            model.changed.set()
        await asyncio.to_thread(self.fleet.stop)

    @asynccontextmanager
    async def use(self, model: ServedModel, keep_alive: float | None = None) -> AsyncIterator[Lane]:
        """Hold a model, loading it first if need be, so that it is not unloaded meanwhile.

        Args:
            model: The model.
            keep_alive: Seconds that it is to stay loaded afterwards, until another use says
                otherwise or it is unloaded. Unset: as before.

        Raises:
            ModelUnavailable: It is loading still, or has failed.
        """
        lane = await self.lane(model)
        model.users += 1
        try:
            yield lane
            if keep_alive is not None and not model.settings.pinned:
                model.keep_alive = keep_alive  # of a request that was good
        finally:
            model.users -= 1
            if not model.users:
                model.changed.set()
                self.expect_expiry(model)

    async def lane(self, model: ServedModel) -> Lane:
        """Where the texts of a model wait; of one that is not loaded, once it is.

        Raises:
            ModelUnavailable: It is loading still, or has failed.
        """
        deadline = self._loop.time() + self._settings.model_wait_seconds
        while model.lane is None:
            self._check_running()
            self._check_cooled_down(model)
            self.begin_loading(model)
            if not await model.until_loaded(max(0.0, deadline - self._loop.time())):
                raise ModelUnavailable(f"The model '{model.name}' is still loading.", retry_after=5)
        return model.lane

    def begin_loading(self, model: ServedModel) -> None:
        """See to it that a model is loaded, or on its way."""
        if model.lane is None and not model.is_loading:
            model.loading = self._start(self._bring_up(model))

    async def bring_to_device(self, model: ServedModel) -> None:
        """Load a model, and have its weights on its device.

        Raises:
            ModelUnavailable: It cannot be loaded, or not within ``model_wait_seconds``.
        """
        async with self.use(model) as lane:

            def is_here() -> bool:
                if model.reason or any(copy.is_here for copy in lane.copies):
                    return True
                self.fleet.want(lane)  # again, where it has come and been sent away since
                return False

            try:
                async with asyncio.timeout(self._settings.model_wait_seconds):
                    await self._until(model, is_here)
            except TimeoutError:
                raise ModelUnavailable(
                    f"The model '{model.name}' waits for room on its device.", retry_after=5
                ) from None
        self._check_cooled_down(model)

    async def park(self, model: ServedModel) -> bool:
        """Put a model's weights behind its device as soon as it has no work.

        Returns:
            Whether they have left; not if it has had work without a pause.
        """
        copies = model.copies
        self.fleet.send(copies)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.model_wait_seconds):
                # Not where they are: work that came since may have brought them back already.
                await self._until(model, lambda: all(copy.leaves_for is None for copy in copies))
                return True
        self.fleet.keep(copies)
        return False

    async def unload(self, model: ServedModel) -> None:
        """Give back all that a model takes. Requests that it has are answered first."""
        async with model.change:
            lane = model.lane
            if lane is None:
                return
            # Who comes from now on waits, and has it loaded again.
            model.lane, model.outgoing = None, lane
            await self._until(model, lambda: not model.users)
            await self._release(model, lane)
        logger.info("model %s: unloaded", model.name)

    def expect_expiry(self, model: ServedModel) -> None:
        """Have a model unloaded when its ``keep_alive`` has passed without a user."""
        self._cancel_expiry(model)
        if model.keep_alive >= 0 and not (model.settings.pinned or self._stopped):
            model.expires = time.monotonic() + model.keep_alive
            self._timers[model] = self._loop.call_later(model.keep_alive, self._expire, model)

    def _cancel_expiry(self, model: ServedModel) -> None:
        if (timer := self._timers.pop(model, None)) is not None:
            timer.cancel()
        model.expires = None

    def _expire(self, model: ServedModel) -> None:
        del self._timers[model]
        model.expires = None
        if model.users or model.lane is None:
            return
        if model.waiting:  # it must not go before they have had it
            self.expect_expiry(model)
        else:
            self._start(self.unload(model))

    def _check_running(self) -> None:
        if self._stopped:
            raise ModelUnavailable("The server is stopping.", retry_after=5)

    async def _until(self, model: ServedModel, condition: Callable[[], bool]) -> None:
        await model.until(lambda: self._stopped or condition())
        self._check_running()

    def _check_cooled_down(self, model: ServedModel) -> None:
        left = model.failed_at + COOL_DOWN_SECONDS - time.monotonic()
        if model.reason and left > 0:
            raise ModelUnavailable(
                f"The model '{model.name}' cannot be served: {model.reason}", retry_after=left
            )

    async def _bring_up(self, model: ServedModel) -> None:
        started = time.perf_counter()
        lane: Lane | None = None
        async with model.change:
            model.reason = ""
            try:
                on_loaded = await self._on_loading(model)
                load = partial(self._load, self._settings, model.settings)
                prepared = await asyncio.wrap_future(self.fleet.prepare(load))
                lane = self.fleet.open(model.settings, prepared)
                self._models[lane] = model
                await self._arrival(lane)
                on_loaded(lane)
            except Exception as error:  # any fault of a model's files; the other models go on
                self._note_failure(model, lane, error)
                if lane is not None:
                    await self._release(model, lane)
            else:
                model.lane = lane
                self.expect_expiry(model)
        took = time.perf_counter() - started
        if not model.reason:
            logger.info("model %s: ready after %.1f s", model.name, took)
        self._watcher.loaded(LoadReport(model.name, started, took, model.reason))
        model.was_tried = True

    async def _arrival(self, lane: Lane) -> None:
        """Wait until a copy has come for the first time. Raises whatever kept it."""
        self._arrivals[lane] = self._loop.create_future()
        try:
            await self._arrivals[lane]
        finally:
            del self._arrivals[lane]

    def _on_change(self, lane: Lane, error: Exception | None) -> None:
        with suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._note_change, lane, error)

    def _note_change(self, lane: Lane, error: Exception | None) -> None:
        model = self._models.get(lane)
        if model is None:
            return
        arrival = self._arrivals.get(lane)
        if arrival is not None and not arrival.done():
            if error is not None:
                arrival.set_exception(error)
            elif lane.is_loaded:
                arrival.set_result(None)
        elif error is not None:
            self._note_failure(model, lane, error)
            self._start(self._give_up(model, lane))
        model.changed.set()

    def _note_failure(self, model: ServedModel, lane: Lane | None, error: Exception) -> None:
        known = isinstance(error, ApplianceError)
        model.reason = str(error) if known else f"{type(error).__name__}: {error}"
        model.failed_at = time.monotonic()
        logger.error("model %s: %s", model.name, model.reason, exc_info=None if known else error)
        if lane is not None:
            told = f"The model '{model.name}' cannot be served: {model.reason}"
            lane.fail_waiting(ModelUnavailable(told, retry_after=COOL_DOWN_SECONDS), close=True)

    async def _give_up(self, model: ServedModel, lane: Lane) -> None:
        async with model.change:
            if lane in self._models:  # else it was being unloaded anyhow
                await self._release(model, lane)

    async def _release(self, model: ServedModel, lane: Lane) -> None:
        """Forget a lane that gets no more work, and give back what its weights take."""
        model.lane = None
        model.keep_alive = model.settings.keep_alive
        self._cancel_expiry(model)
        self.fleet.send(lane.copies, "source")
        await self._until(model, lambda: all(copy.is_released for copy in lane.copies))
        if model.calibration is not None:
            model.calibration.stop()
            model.calibration = None
        model.outgoing = None
        del self._models[lane]
        self.fleet.close(lane)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
