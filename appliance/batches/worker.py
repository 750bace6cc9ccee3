# SPDX-License-Identifier: Apache-2.0
"""Takes batches in the order in which they were made, one at a time.

Of several processes on one database, one has a batch: its row names the holder, and counts that
one's signs of life. Whoever has seen no new one for long enough takes over; clocks are not compared
for that. A lock beside the part file keeps a process out that was only held up, and does not know
yet that it has lost the batch.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from appliance.access.grants import EVERYTHING
from appliance.batches.records import OPEN_STATUSES, Batch
from appliance.batches.running import Run
from appliance.batches.tools import Tools
from appliance.durable import AlreadyLocked, hold_lock
from appliance.errors import ApplianceError, StoreUnavailable

__all__ = ["Worker"]

logger = logging.getLogger(__name__)

LEASE_SECONDS = 15.0
"""Time without a sign of life after which a batch is another's to take."""

LOOK_SECONDS = 2.0
SWEEP_SECONDS = 600.0
STOP_SECONDS = 5.0


@dataclass(slots=True)
class _Sighting:
    """Another process's sign of life, and when it was first seen, by ``time.monotonic``."""

    holder: str | None
    beat: int
    since: float = field(default_factory=time.monotonic)


class Worker:
    """Works batches off.

    Args:
        tools: What it does that with.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._holder = secrets.token_hex(16)
        self._sightings: dict[str, _Sighting] = {}
        self._faults: dict[str, str] = {}
        self._run: Run | None = None
        self._wake = asyncio.Event()
        self._swept = float("-inf")
        self._is_stopping = False
        self._task = asyncio.create_task(self._work_for_ever())

    def look(self, batch_id: str | None = None) -> None:
        """See at once what has changed.

        Args:
            batch_id: The batch that has. Unset: there is a new one.
        """
        self._wake.set()
        if self._run is not None and self._run.batch_id == batch_id:
            self._run.look()

    async def stop(self) -> None:
        """Keep what has been done, let go of the rest, and end."""
        self._is_stopping = True
        self._wake.set()
        if self._run is not None:
            self._run.halt("stopping")
        await asyncio.wait({self._task}, timeout=STOP_SECONDS)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def _may_begin(self) -> bool:
        return not self._is_stopping and not self._tools.engine.draining

    async def _work_for_ever(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            worked = False
            try:
                await self._sweep()
                worked = await self._work_once()
            except StoreUnavailable:  # which the store has logged
                pass
            except Exception:  # the next time may go better
                logger.exception("batches could not be worked off")
            if not worked:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), LOOK_SECONDS)

    async def _work_once(self) -> bool:
        """Work on the first batch that can be; whether there was one."""
        found = await self._tools.store.open_batches()
        known = {batch.id for batch in found}
        self._sightings = {id_: seen for id_, seen in self._sightings.items() if id_ in known}
        for batch in found:
            if self._may_begin and self._is_free(batch) and await self._take(batch):
                return True
        return False

    def _is_free(self, batch: Batch) -> bool:
        """Whether nobody else has it, and its files are here."""
        if not self._tools.contents.has_files_of(batch):
            return False  # another instance's, which has a folder of its own
        if batch.holder is None or batch.holder == self._holder:
            return True
        seen = self._sightings.get(batch.id)
        if seen is None or (seen.holder, seen.beat) != (batch.holder, batch.beat):
            self._sightings[batch.id] = _Sighting(batch.holder, batch.beat)
            return False
        return time.monotonic() - seen.since >= LEASE_SECONDS

    async def _take(self, batch: Batch) -> bool:
        """Work on a batch; whether that came to anything."""
        with ExitStack() as stack:
            try:
                lock = hold_lock(self._tools.contents.lock(batch.id))
                await asyncio.to_thread(stack.enter_context, lock)
                claimed = await self._tools.store.claim(batch, self._holder)
                if claimed is None:
                    return False
                self._run = Run(claimed, self._holder, self._tools)
                await self._run.go()
            except AlreadyLocked:
                self._tell(batch, "another process has not let go of it yet")
                return False
            except (OSError, ApplianceError) as error:
                self._tell(batch, str(error))
                return False
            except Exception:
                logger.exception("%s: it will be tried again", batch.id)
                return False
            finally:
                self._run = None
        self._faults.pop(batch.id, None)
        return True

    def _tell(self, batch: Batch, fault: str) -> None:
        """Log what holds a batch up, once."""
        if self._faults.get(batch.id) != fault:
            logger.warning("%s: %s; it will be tried again", batch.id, fault)
        self._faults[batch.id] = fault

    async def _sweep(self) -> None:
        """Delete what has expired or was left behind, now and then."""
        if time.monotonic() - self._swept < SWEEP_SECONDS:
            return
        for file_id in await self._tools.store.forget_expired():
            await asyncio.to_thread(self._tools.contents.remove, file_id)
        await asyncio.to_thread(self._tools.contents.clear_abandoned)
        for batch_id in self._tools.contents.batches_with_parts():
            batch = await self._tools.store.batch(EVERYTHING, batch_id)
            if batch is not None and batch.status not in OPEN_STATUSES:  # killed at the very end
                self._tools.contents.part(batch_id).unlink(missing_ok=True)
        self._swept = time.monotonic()
