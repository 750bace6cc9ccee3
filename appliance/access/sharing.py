# SPDX-License-Identifier: Apache-2.0
"""Quotas that several replicas share through a database.

The bucket is in the database. So that a busy key does not cost it a question a request, a replica
takes some of it ahead, an allotment, and serves from that. The database knows what is lent out in
this way, and leaves room for it as it refills the bucket: all replicas together never let through
more than one process would with the bucket to itself.

An allotment that is used is renewed about once a second; one that is not is given back. It is good
for a few seconds only, so that what a replica held that was killed comes back by itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from appliance.access.quotas import Clock, Kind
from appliance.errors import StoreUnavailable

__all__ = ["ALLOTMENT_SECONDS", "Allotted", "Exchange", "Settled", "Sharing"]

logger = logging.getLogger(__name__)

ALLOTMENT_SECONDS = 5.0
"""Time for which an allotment is good."""

SETTLE_SECONDS = 1.0
"""Time between two looks at the allotments: those that were not used meanwhile are given back."""

ASK_SECONDS = 2.0
"""Longest wait for the database."""

MOST_AT_ONCE = 8
"""Allotments that are settled at once; each takes a connection."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a replica gives back to a bucket and takes from it, in one step.

    Attributes:
        token_id: The token whose bucket it is.
        kind: What it counts.
        limit: What it holds.
        need: Taken if it is there.
        ahead: Most that is taken beyond that, as a new allotment.
        change: Put into it; taken from it, there or not, where negative.
        size: Of the allotment that ends by this; 0: there is none.
        unused: What is left of that.
        until: When that is over, as the database has said.
    """

    token_id: str
    kind: Kind
    limit: int
    need: int = 0
    ahead: int = 0
    change: float = 0.0
    size: float = 0.0
    unused: float = 0.0
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Allotted:
    """What came of an exchange.

    Attributes:
        is_there: Whether what was needed was there, and is taken.
        ahead: The new allotment.
        until: When that is over, by the database's clock.
        level: What is in the bucket then.
    """

    is_there: bool
    ahead: float
    until: float
    level: float


class Settled(Protocol):
    """A bucket that the database is to hear of."""

    async def settle(self) -> None:
        """Tell it."""


class Sharing:
    """What the shared buckets of one replica have in common.

    Args:
        exchange: Asks the database. Raises :class:`StoreUnavailable` where it cannot be reached.
        clock: Monotonic, in seconds.

    Attributes:
        clock: The clock.
        is_away: Whether the database could not be reached when it was last asked.
        is_stopping: Whether nothing is to be taken ahead any more.
        unsettled: Buckets that the database is to hear of.
    """

    def __init__(
        self, exchange: Callable[[Exchange], Awaitable[Allotted]], clock: Clock = time.monotonic
    ) -> None:
        self._exchange = exchange
        self._tasks: set[asyncio.Task[Any]] = set()
        self.clock = clock
        self.is_away = False
        self.is_stopping = False
        self.unsettled: set[Settled] = set()

    async def ask(self, wanted: Exchange) -> Allotted | None:
        """Ask the database; ``None`` where it cannot be reached."""
        try:
            async with asyncio.timeout(ASK_SECONDS):
                told = await self._exchange(wanted)
        except (StoreUnavailable, TimeoutError):
            if not self.is_away:
                logger.warning(
                    "the database of tokens cannot be reached; until it can, this process counts"
                    " quotas alone"
                )
            self.is_away = True
            return None
        if self.is_away:
            logger.info("the database of tokens is back, and quotas are shared again")
        self.is_away = False
        return told

    def begin(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Have something done, whoever waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def settle_for_ever(self) -> None:
        """Settle again and again, until cancelled."""
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            try:
                await self.settle()
            except Exception:  # the next time may go better
                logger.exception("quotas could not be settled")

    async def settle(self) -> None:
        """Renew allotments that are in use, and give the others back."""
        if self.is_away and self.unsettled:  # one is enough to find that out by
            await next(iter(self.unsettled)).settle()
        if self.is_away:
            return
        free = asyncio.Semaphore(MOST_AT_ONCE)

        async def settle(bucket: Settled) -> None:
            async with free:
                if not self.is_away:
                    await bucket.settle()

        await asyncio.gather(*map(settle, [*self.unsettled]))

    async def stop(self) -> None:
        """Give everything back."""
        self.is_stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(ASK_SECONDS):
                await self.settle()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
