# SPDX-License-Identifier: Apache-2.0
"""One batch, from where it stands to its end.

What has been done of it is never taken from memory: the row of the database tells its status, the
part file its rows, so that any process goes on where another has stopped, in whatever way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from appliance.access.grants import EVERYTHING, Grant
from appliance.batches.part import Part, Tally, expired_row
from appliance.batches.records import (
    RESULT_KINDS,
    Batch,
    Ending,
    ResultKind,
    StoredFile,
    result_file_id,
)
from appliance.batches.requests import read_requests
from appliance.batches.rows import Rows
from appliance.batches.tools import Tools
from appliance.batches.validating import validate
from appliance.errors import ApplianceError, StoreUnavailable

__all__ = ["BEAT_SECONDS", "Run"]

logger = logging.getLogger(__name__)

BEAT_SECONDS = 3.0
"""Time between two signs of life; cancelling is noticed, and counts are written, no later."""

Reason = Literal["stopping", "lost", "expired", "cancelled"]


class LeaseLost(Exception):
    """Another process has taken the batch over."""


class Run:
    """One batch in the hands of this process.

    Args:
        batch: As it was claimed.
        holder: This process.
        tools: What it is worked off with.
    """

    def __init__(self, batch: Batch, holder: str, tools: Tools) -> None:
        self._batch = batch
        self._holder = holder
        self._tools = tools
        self._grant = EVERYTHING
        self._tally = Tally(batch.completed, batch.failed, batch.tokens)
        self._part = Part(tools.contents.part(batch.id))
        self._reason: Reason | None = None
        self._halt = asyncio.Event()
        self._look = asyncio.Event()

    @property
    def batch_id(self) -> str:
        """Which batch it is."""
        return self._batch.id

    def look(self) -> None:
        """See at once whether the batch has been cancelled."""
        self._look.set()

    def halt(self, reason: Reason) -> None:
        """Answer no more requests. The first reason counts."""
        self._reason = self._reason or reason
        self._halt.set()

    async def go(self) -> None:
        """Work until the batch has ended, or until told to stop.

        Raises:
            OSError: A file cannot be read or written.
            StoreUnavailable: The database cannot be.
        """
        await self._beat()
        beating = asyncio.create_task(self._beat_for_ever())
        try:
            await self._advance()
        except LeaseLost:
            logger.warning("%s: another process has taken it over", self._batch.id)
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            self._part.close()

    async def _advance(self) -> None:
        if self._batch.status == "validating" and not await self._validate():
            return
        if self._batch.ending is None:
            if self._batch.in_progress_at is not None:
                await self._fill()
            if self._reason in ("stopping", "lost"):
                await self._release()
                return
            await self._close()
        await self._finish()

    async def _validate(self) -> bool:
        """Look the input through; whether the batch goes on."""
        await self._write(await validate(self._batch, self._grant, self._tools))
        return self._batch.status != "failed"

    async def _fill(self) -> None:
        """Write the rows that are lacking, until there is none or a reason to stop."""
        self._tally = await asyncio.to_thread(self._part.open)
        if self._batch.status == "cancelling":
            self.halt("cancelled")
        tools, path = self._tools, self._tools.contents.path(self._batch.input_file_id)
        rows = Rows(path, self._part, self._tally, tools.answer, lambda: self._grant)
        await rows.fill(self._halt)
        if self._reason == "expired":
            await asyncio.to_thread(self._write_expired, path)
        await asyncio.to_thread(self._part.sync)

    def _write_expired(self, path: Path) -> None:
        for request in read_requests(path, self._tally.rows):
            self._part.append(expired_row(request.custom_id))
            self._tally.add(is_good=False, tokens=0)

    async def _close(self) -> None:
        """Note that there will be no more rows, and why."""
        while self._batch.ending is None:
            is_cancelled = self._batch.status == "cancelling"
            ending: Ending = "cancelled" if is_cancelled else "completed"
            if not is_cancelled and self._reason == "expired":
                ending = "expired"
            values = {"ending": ending, **self._counts}
            if not is_cancelled:
                values |= {"status": "finalizing", "finalizing_at": int(time.time())}
            await self._write(values)
        self._part.close()

    async def _finish(self) -> None:
        """Put the results in place."""
        batch, tally = self._batch, self._tally
        assert batch.ending is not None
        paths = {
            kind: self._tools.contents.path(result_file_id(batch.id, kind)) for kind in RESULT_KINDS
        }
        await asyncio.to_thread(self._part.turn_into, paths["output"], paths["error"], tally)
        now = int(time.time())
        counts = {"output": tally.completed, "error": tally.failed}
        results = {
            kind: self._result(kind, path, now) for kind, path in paths.items() if counts[kind]
        }
        values: dict[str, Any] = {
            "status": batch.ending,
            f"{batch.ending}_at": now,
            **{f"{kind}_file_id": file.id for kind, file in results.items()},
        }
        if (
            await self._tools.store.end(batch.id, self._holder, [*results.values()], **values)
            is None
        ):
            raise LeaseLost
        await asyncio.to_thread(self._part.remove)
        logger.info(
            "%s: %s; %d of %d requests answered, %d failed, %d tokens",
            *(batch.id, batch.ending, tally.completed, batch.total, tally.failed, tally.tokens),
        )

    def _result(self, kind: ResultKind, path: Path, now: int) -> StoredFile:
        batch, seconds = self._batch, self._batch.output_expires_seconds
        return StoredFile(
            id=path.name,
            owner=batch.owner,
            filename=f"{batch.id}_{kind}.jsonl",
            purpose="batch_output",
            bytes=path.stat().st_size,
            created_at=now,
            expires_at=None if seconds is None else now + seconds,
        )

    async def _release(self) -> None:
        """Let another process have it, or the next start of this one, without a wait."""
        if self._reason == "stopping":
            with suppress(StoreUnavailable):
                await self._tools.store.beat(
                    self._batch.id, self._holder, holder=None, **self._counts
                )

    @property
    def _counts(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self._tally)

    async def _write(self, values: dict[str, Any]) -> None:
        """Write values, unless the status has changed; know what is there now.

        Raises:
            LeaseLost: Another process has taken over.
        """
        batch, status = self._batch, self._batch.status
        changed = await self._tools.store.advance(batch.id, self._holder, status, **values)
        if changed is None:
            raise LeaseLost
        self._batch = changed

    async def _beat_for_ever(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), BEAT_SECONDS)
            self._look.clear()
            with suppress(ApplianceError):  # which is logged; the next may get through
                await self._beat()

    async def _beat(self) -> None:
        """Show that this process is alive, and see whether the batch is to go on."""
        engine, store = self._tools.engine, self._tools.store
        if engine.draining:
            self.halt("stopping")
        engine.last_action = time.monotonic()
        if time.time() >= self._batch.expires_at:
            self.halt("expired")
        await self._ask_for_grant()
        counts = self._counts if self._batch.in_progress_at is not None else {}
        batch = await store.beat(self._batch.id, self._holder, **counts)
        if batch is None:
            self.halt("lost")
        elif batch.status == "cancelling":
            self.halt("cancelled")

    async def _ask_for_grant(self) -> None:
        """Hold to what the key allows that the batch was made with; without it, to nothing.

        One that has expired since was good when the batch was accepted.
        """
        owner = self._batch.owner
        if owner is None:
            return
        token = await self._tools.door.token(owner)
        if token is None or token.revoked_at is not None:
            logger.info("%s: cancelled, as its key was revoked", self._batch.id)
            await self._tools.store.cancel(EVERYTHING, self._batch.id)
            return
        self._grant = Grant(
            token.id,
            frozenset(token.scopes),
            None if token.models is None else frozenset(token.models),
            None,
            token.requests_per_minute,
            token.tokens_per_minute,
        )
