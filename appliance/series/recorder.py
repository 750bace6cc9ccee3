# SPDX-License-Identifier: Apache-2.0
"""Takes a sample every few seconds, and has the store keep them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from appliance.errors import StoreUnavailable
from appliance.series.definitions import SERIES, Definition, column_of
from appliance.series.histogram import BUCKETS, Counts, bucket_of
from appliance.series.history import MINUTE, Clock, History
from appliance.series.probes import Probes, Reading
from appliance.telemetry.records import RequestRecord

if TYPE_CHECKING:
    from appliance.series.store import SeriesStore

__all__ = ["Recorder"]

logger = logging.getLogger(__name__)

CLIENT_ERROR, SERVER_ERROR = 400, 500
_ANSWERED, _REFUSED, _FAILED = (
    column_of("requests", end) for end in ("answered", "refused", "failed")
)
_TOKENS = column_of("tokens", "tokens")
_QUEUE = column_of("queue", "tokens")


class Recorder:
    """Records what the instance does. Belongs to the event loop; what blocks runs on threads.

    A sample costs half a millisecond of a thread, more with GPUs, and a twentieth of one of the
    event loop; a request 1.4 microseconds. See :mod:`appliance.series.history` for the memory.

    Args:
        folder: The setting ``data_dir``, where the points are kept. Unset: they are not.
        waiting: Tells how many tokens wait for a device.
        clock: Numbers the points.

    Attributes:
        clock: The clock.
        history: The points.
        gpus: Names of the GPUs, as lines are called; empty until the system has been looked at.
        is_keeping: Whether what was kept has been put back, and more can be.
    """

    def __init__(
        self, folder: Path | None, waiting: Callable[[], int], clock: Clock | None = None
    ) -> None:
        self._folder = folder
        self._waiting = waiting
        self._own = dict.fromkeys((_ANSWERED, _REFUSED, _FAILED, _TOKENS), 0.0)
        self._latencies: Counts = np.zeros(BUCKETS, dtype=np.uint32)
        self._probes: Probes | None = None
        self._before = Reading()
        self._store: SeriesStore | None = None
        self.is_keeping = False
        self._running: asyncio.Task[None] | None = None
        self.clock = clock or Clock()
        self.gpus: list[str] = []
        self.history = History(_columns(self.gpus), self.clock)

    def note(self, record: RequestRecord) -> None:
        """Count a request; a sink of the telemetry."""
        if record.status >= SERVER_ERROR:
            self._own[_FAILED] += 1
        elif record.status >= CLIENT_ERROR:
            self._own[_REFUSED] += 1
        else:
            self._own[_ANSWERED] += 1
            self._latencies[bucket_of(record.seconds * 1000)] += 1
        self._own[_TOKENS] += record.tokens

    def lines(self, series: Definition) -> tuple[str, ...]:
        """Names of a series' lines; none where the system does not tell its values."""
        if not series.lines:
            return tuple(self.gpus)
        if self._probes is None or series.name == "latency":
            return series.lines
        known = self._before.totals.keys() | self._before.levels.keys()
        return tuple(line for line in series.lines if column_of(series.name, line) in known)

    def start(self) -> None:
        """Begin to sample, and to keep what was sampled if there is a folder."""
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Sample and write once more."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._store is None:
            return
        if self.is_keeping:
            await self._sample_and_go_on()
            with suppress(StoreUnavailable):
                await self._store.write(self.history, self.clock.wall)
        await self._store.close()

    async def sample(self) -> None:
        """Take one sample."""
        assert self._probes is not None
        reading = await asyncio.to_thread(self._probes.read)
        reading.totals.update(self._own)
        reading.levels[_QUEUE] = self._waiting()
        before, self._before = self._before, reading
        latencies, self._latencies = self._latencies, np.zeros_like(self._latencies)
        grown = {
            # Less than before: the system has begun to count anew.
            column: max(total - before.totals[column], 0.0)
            for column, total in reading.totals.items()
            if column in before.totals
        }
        self.history.add(grown, reading.levels, latencies)

    async def _run(self) -> None:
        self._probes = await asyncio.to_thread(Probes)
        self.gpus = self._probes.gpu_lines
        self.history = History(_columns(self.gpus), self.clock)
        self._before.totals.update(self._own)
        await self._sample_and_go_on()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sample_for_ever())
            group.create_task(self._keep_and_go_on())

    async def _sample_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.history.seconds_to_next)
            await self._sample_and_go_on()

    async def _sample_and_go_on(self) -> None:
        try:
            await self.sample()
        except Exception:  # the next one may go better
            logger.exception("the system could not be looked at")

    async def _keep_and_go_on(self) -> None:
        try:
            if self._folder is not None:
                await self._keep_for_ever(self._folder)
        except Exception:  # plots of this run are worth having without
            logger.exception("the series will not be kept")

    async def _keep_for_ever(self, folder: Path) -> None:
        """Put back what was kept, and write once a minute. The database's faults are waited out.

        So is another server that keeps its own series there.
        """
        began = self.clock.wall
        self._store = store = await asyncio.to_thread(_import_and_make, folder)
        is_told = False
        while True:
            with suppress(StoreUnavailable):  # which the store has logged
                if not self.is_keeping:
                    await store.migrate()
                    self.is_keeping = await self._take_over(store, began)
                if self.is_keeping:
                    await store.write(self.history, self.clock.wall)
                elif not is_told:
                    logger.info("another server keeps its time series in %s; this one none", folder)
                    is_told = True
            await asyncio.sleep(MINUTE)

    async def _take_over(self, store: SeriesStore, began: float) -> bool:
        """Put back what was kept up to a moment; ``False`` if another server keeps its own."""
        if not await store.claim():
            return False
        rows = await store.read(self.clock.wall)
        self.history.restore(row for row in rows if row[1] <= began)
        return True


def _columns(gpus: list[str]) -> list[str]:
    return [
        column_of(series.name, line)
        for series in SERIES
        if series.name != "latency"
        for line in series.lines or gpus
    ]


def _import_and_make(folder: Path) -> SeriesStore:
    # SQLAlchemy takes a good part of a second to import, which the port must not wait for.
    from appliance.series.store import SeriesStore

    return SeriesStore(folder)
