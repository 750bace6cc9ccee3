# SPDX-License-Identifier: Apache-2.0
"""The keys that are good, in memory: those of the settings, and stored ones for a few seconds."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from appliance.access.grants import EVERYTHING, Grant, digest_of
from appliance.access.quotas import Clock
from appliance.errors import StoreUnavailable

__all__ = ["Keyring"]

logger = logging.getLogger(__name__)

FRESH_SECONDS = 1.5
"""Age at which an answer of the store is asked for anew, behind the request's back."""

STALE_SECONDS = 4.0
"""Age from which a request waits for a new one: revocation elsewhere holds within 5 seconds."""

GRACE_SECONDS = 300.0
"""Time that a token which was good stays so while the store cannot be asked."""

MOST_KNOWN = 10_000


@dataclass(frozen=True, slots=True)
class _Known:
    """What the store said of a digest.

    Attributes:
        grant: What it allows; ``None`` if no token that is good has it.
        asked: When that was last asked for.
        confirmed: When it was last said.
    """

    grant: Grant | None
    asked: float
    confirmed: float


class Keyring:
    """Tells what a key allows.

    Unknown, expired and revoked keys take the same way through it and the store, which gives no row
    for any of them, and so the same time: ``scripts/bench_auth.py`` measures that.

    Args:
        static: Keys that allow everything.
        find: Asks the store what the token with a digest allows; ``None`` where it is not good.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self,
        static: Iterable[str],
        find: Callable[[str], Awaitable[Grant | None]] | None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._static = [digest_of(key) for key in static]
        self._find = find
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._asking: dict[str, asyncio.Task[_Known]] = {}

    def add(self, key: str) -> None:
        """Take one more key that allows everything."""
        self._static.append(digest_of(key))

    def forget(self, token_id: str) -> None:
        """Ask the store anew about a token, as it has changed."""
        for digest, known in list(self._known.items()):
            if known.grant is not None and known.grant.id == token_id:
                del self._known[digest]

    async def stop(self) -> None:
        """Ask no more."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def grant(self, digest: str) -> Grant | None:
        """What the key with a digest allows; ``None`` if it is not good.

        Raises:
            StoreUnavailable: That cannot be told now.
        """
        # Digests are compared, all of them and to the end, so that the time taken tells nothing of
        # how close a key came. Whoever times the look-up in the table below learns of a digest, and
        # no digest leads to a key.
        matches = [hmac.compare_digest(digest, static) for static in self._static]
        if any(matches):
            return EVERYTHING
        if self._find is None:
            return None
        known = self._known.get(digest)
        age = STALE_SECONDS if known is None else self._clock() - known.asked
        if known is None or age >= STALE_SECONDS:
            # Shielded, as others may wait for the same answer.
            known = await asyncio.shield(self._ask(digest))
        elif age >= FRESH_SECONDS:
            self._ask(digest)
        grant = known.grant
        return None if grant is None or grant.is_over else grant

    def _ask(self, digest: str) -> asyncio.Task[_Known]:
        task = self._asking.get(digest)
        if task is None:
            task = self._asking[digest] = asyncio.create_task(self._answer(digest))
            task.add_done_callback(lambda done: self._answered(digest, done))
        return task

    def _answered(self, digest: str, task: asyncio.Task[_Known]) -> None:
        del self._asking[digest]
        if not task.cancelled() and (error := task.exception()):
            logger.debug("a token could not be looked up: %s", error)

    async def _answer(self, digest: str) -> _Known:
        assert self._find is not None
        asked = self._clock()
        try:
            known = _Known(await self._find(digest), asked, asked)
        except StoreUnavailable:
            before = self._known.get(digest)
            if before is None or asked - before.confirmed >= GRACE_SECONDS:
                raise
            known = _Known(before.grant, self._clock(), before.confirmed)
        self._known[digest] = known
        self._known.move_to_end(digest)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return known
