# SPDX-License-Identifier: Apache-2.0
"""A quota that several replicas share, as one of them sees it."""

from __future__ import annotations

import asyncio

from appliance.access.quotas import MINUTE, Bucket, Kind, seconds_until
from appliance.access.sharing import ALLOTMENT_SECONDS, Allotted, Exchange, Sharing

__all__ = ["SharedBucket"]

REFUSE_SECONDS = 0.5
"""Age up to which an answer of the database is good enough to refuse by."""

SHARE = 20
"""The part of a limit that a replica takes ahead, at most: one in so many."""


class SharedBucket:
    """One bucket, as one replica sees it: a :class:`~appliance.access.quotas.Counter`.

    Args:
        shared: What it has in common with others.
        token_id: The token whose it is.
        kind: What it counts.
        limit: What it holds, and what flows in within a minute.
    """

    def __init__(self, shared: Sharing, token_id: str, kind: Kind, limit: int) -> None:
        self.limit = limit
        self._shared = shared
        self._token_id = token_id
        self._kind = kind
        self._asking = asyncio.Lock()
        self._waiting = 0
        self._told, self._told_at = float(limit), shared.clock()
        self._change = self._sent = 0.0
        self._size = self._unused = 0.0
        self._until = self._ends = 0.0
        self._is_used = False
        self._alone: Bucket | None = None
        self._used_alone = 0.0

    @property
    def level(self) -> float:
        """What is left, for this replica and the others, as it was last told."""
        if self._alone is not None:
            return self._alone.level
        flown = (self._shared.clock() - self._told_at) * self.limit / MINUTE
        unused = self._unused if self._holds else 0.0
        return min(self._told + flown + self._change + self._sent + unused, self.limit)

    @property
    def is_idle(self) -> bool:
        """Whether the database knows all that is known here."""
        return self not in self._shared.unsettled and not self._asking.locked()

    async def draw(self, amount: int) -> float:
        """Take an amount if it is there; else the seconds until it may be.

        Waits for the database only where the allotment does not have as much.
        """
        if (wait := self._draw_here(amount)) is not None:
            return wait
        asked = self._shared.begin(self._ask(amount))
        try:
            return await asyncio.shield(asked)  # the answer counts even if this request has left
        except asyncio.CancelledError:
            asked.add_done_callback(lambda done: self._undo(done, amount))
            raise

    def correct(self, difference: int) -> None:
        """Take what turned out to be used as well; a negative difference is put back."""
        if self._alone is not None:
            self._alone.take(difference)
            self._used_alone += difference
            return
        taken = 0.0
        if self._holds:
            unused = min(max(self._unused - difference, 0.0), self._size)
            taken, self._unused = self._unused - unused, unused
        self._change -= difference - taken
        if self._change:
            self._shared.unsettled.add(self)
            if not self._shared.is_away:
                self._shared.begin(self._report())

    async def settle(self) -> None:
        """Tell the database what has happened; keep an allotment only if it is in use."""
        async with self._asking:
            is_used, self._is_used = self._is_used, False
            renews = is_used and self._holds and not self._shared.is_stopping
            self._shared.unsettled.discard(self)
            if self._size or self._change or self._alone is not None:
                await self._exchange(ahead=self._share if renews else 0)

    async def _report(self) -> None:
        """Tell the database at once what does not fit into the allotment.

        What is put back late has made room meanwhile, into which more flows than there would have.
        """
        async with self._asking:
            if self._change:
                await self._exchange(ahead=self._share if self._holds else 0)

    @property
    def _holds(self) -> bool:
        """Whether there is an allotment that is still good."""
        return self._size > 0 and self._shared.clock() < self._ends

    @property
    def _share(self) -> int:
        return max(self.limit // SHARE, self._waiting)

    @property
    def _owed(self) -> float:
        """What was taken while the database was away, as far as time has not made up for it."""
        if self._alone is None:
            return 0.0
        return min(self._used_alone, self.limit - self._alone.level)

    def _draw_here(self, amount: int) -> float | None:
        """Take an amount, or refuse it, without the database; ``None`` if that is to be asked."""
        if self._holds and self._unused >= amount:
            self._unused -= amount
            self._is_used = True
            return 0.0
        if self._shared.is_away:
            return self._draw_alone(amount)
        is_fresh = self._shared.clock() - self._told_at < REFUSE_SECONDS
        wait = seconds_until(amount, self.level, self.limit)
        return wait if is_fresh and self._alone is None and wait > 0 else None

    async def _ask(self, amount: int) -> float:
        self._waiting += amount
        try:
            await self._asking.acquire()
        finally:
            self._waiting -= amount
        try:
            # While this one waited for its turn, another may have brought enough for both.
            if (wait := self._draw_here(amount)) is not None:
                return wait
            told = await self._exchange(amount, self._share)
        finally:
            self._asking.release()
        if told is None:
            return self._draw_alone(amount)
        return 0.0 if told.is_there else max(seconds_until(amount, self.level, self.limit), 0.001)

    async def _exchange(self, need: int = 0, ahead: int = 0) -> Allotted | None:
        """Ask the database. Whoever calls this has its turn to."""
        change, owed, sent = self._change, self._owed, self._shared.clock()
        size, unused = (self._size, self._unused) if self._holds else (0.0, 0.0)
        self._change = self._size = self._unused = 0.0
        self._sent = change + unused  # known here, until the answer has it too
        told = await self._shared.ask(
            Exchange(
                self._token_id,
                self._kind,
                self.limit,
                need,
                0 if self._shared.is_stopping else ahead,
                change - owed,
                size,
                unused,
                self._until,
            )
        )
        self._sent = 0.0
        if told is None:
            self._change += min(change, 0.0)  # a debt stays; what was put back may have arrived
            self._shared.unsettled.add(self)
            return None
        if self._alone is not None:
            self._change -= self._owed - owed
            self._alone, self._used_alone = None, 0.0
        self._told, self._told_at = told.level, self._shared.clock()
        self._size = self._unused = told.ahead
        self._until, self._ends = told.until, sent + ALLOTMENT_SECONDS
        if told.ahead or self._change:
            self._shared.unsettled.add(self)
        return told

    def _draw_alone(self, amount: int) -> float:
        if self._alone is None:
            self._alone = Bucket(self.limit, self._shared.clock, self.level)
        self._shared.unsettled.add(self)
        wait = self._alone.seconds_until(amount)
        if not wait:
            self._alone.take(amount)
            self._used_alone += amount
        return wait

    def _undo(self, asked: asyncio.Task[float], amount: int) -> None:
        if not asked.cancelled() and asked.exception() is None and asked.result() == 0:
            self.correct(-amount)
