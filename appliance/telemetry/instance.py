# SPDX-License-Identifier: Apache-2.0
"""Telemetry as a whole: put together beside the first requests, and flushed at the end."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from appliance.engine.service import Engine
from appliance.engine.types import Answer, EmbedOptions
from appliance.engine.watching import BatchReport, LoadReport, MoveReport
from appliance.errors import InternalError, RouteNotFound
from appliance.settings import Settings
from appliance.telemetry.gpus import Gpus
from appliance.telemetry.notes import current_notes

if TYPE_CHECKING:
    # OpenTelemetry's SDK takes a good part of a second to import, which the port does not wait for.
    from appliance.telemetry.instruments import Instruments
    from appliance.telemetry.providers import Providers
    from appliance.telemetry.tracing import Tracing

__all__ = ["Telemetry", "is_disabled"]

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 3.0
"""Time that what was not sent yet has at the end."""


def is_disabled() -> bool:
    """Whether ``OTEL_SDK_DISABLED`` switches all of it off."""
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


class Telemetry:
    """Traces and metrics of one instance; watches its engine. Belongs to the event loop.

    Args:
        settings: The instance's settings.
        gpus: Finds the GPUs; called on another thread.

    Attributes:
        instruments: What requests are measured by; ``None`` before it is ready, and where all is
            switched off.
        tracing: What spans are made by; ``None`` where nobody is told of them.
    """

    def __init__(self, settings: Settings, gpus: Callable[[], Gpus] = Gpus) -> None:
        self._settings = settings
        self._find_gpus = gpus
        self._is_disabled = is_disabled()
        self._providers: Providers | None = None
        self._is_stopped = False
        self._ready = asyncio.Event()
        self._reading = asyncio.Lock()
        self.instruments: Instruments | None = None
        self.tracing: Tracing | None = None

    def start(self, engine: Engine) -> None:
        """Begin to measure an engine, and let the server start meanwhile."""
        if self._is_disabled:
            return
        loop = asyncio.get_running_loop()

        def build() -> None:
            try:
                from appliance.telemetry.providers import Providers

                providers: Providers | None = Providers(self._settings, engine, self._find_gpus)
            except Exception:  # whatever it is, models are served
                logger.exception("there is no telemetry")
                providers = None
            with suppress(RuntimeError):  # the loop has closed: nobody is there to measure
                loop.call_soon_threadsafe(self._install, providers)

        threading.Thread(target=build, name="telemetry", daemon=True).start()

    async def stop(self) -> None:
        """Send what was not sent yet, unless that takes too long."""
        self._is_stopped = True
        providers, self._providers = self._providers, None
        self.instruments = self.tracing = None
        if providers is None:
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def shutdown() -> None:
            providers.shutdown()
            with suppress(RuntimeError):  # the loop has closed: nobody waited so long
                loop.call_soon_threadsafe(ended.set)

        # A daemon: it may hang on a dead network, and nobody joins it.
        threading.Thread(target=shutdown, name="telemetry-flush", daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await ended.wait()
        except TimeoutError:
            logger.warning("telemetry: what was not sent within %g s is lost", FLUSH_SECONDS)

    async def text(self) -> bytes:
        """All metrics as Prometheus reads them.

        Raises:
            RouteNotFound: All is switched off.
            InternalError: It could not be put together, or has been stopped.
        """
        if self._is_disabled:
            raise RouteNotFound("There are no metrics, as OTEL_SDK_DISABLED is true.")
        await self._ready.wait()
        async with self._reading:  # one reader at a time is what the exporter can do
            if self._providers is None:
                raise InternalError("There are no metrics now.")
            return await asyncio.to_thread(self._providers.text)

    def _install(self, providers: Providers | None) -> None:
        self._ready.set()
        if providers is not None and not self._is_stopped:
            self._providers = providers
            self.instruments = providers.instruments
            self.tracing = providers.tracing

    def trace(self) -> object | None:
        """What ties a job to the request that is being served."""
        notes = current_notes.get()
        return None if notes is None else notes.trace

    def asked(self, model: str) -> None:
        """Note which model a request is for."""
        if (notes := current_notes.get()) is not None:
            notes.ask(model)

    def embedded(self, options: EmbedOptions, result: Answer) -> None:
        """Note what a request is answered with."""
        if (notes := current_notes.get()) is not None:
            notes.options, notes.result = options, result

    def batch_done(self, report: BatchReport) -> None:
        """Measure a batch, and write down its span."""
        if (instruments := self.instruments) is not None:
            instruments.batch_done(report)
        if report.traces and (tracing := self.tracing) is not None:
            tracing.batch_done(report)

    def moved(self, report: MoveReport) -> None:
        """Write down the span of a move."""
        if (tracing := self.tracing) is not None:
            tracing.moved(report)

    def loaded(self, report: LoadReport) -> None:
        """Measure a load, and write down its span."""
        if (instruments := self.instruments) is not None:
            instruments.loaded(report)
        if (tracing := self.tracing) is not None:
            tracing.loaded(report)
