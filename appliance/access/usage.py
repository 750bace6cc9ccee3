# SPDX-License-Identifier: Apache-2.0
"""What tokens were used for, gathered in memory and written down in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from appliance.errors import StoreUnavailable

__all__ = ["UsageLog", "Used"]

logger = logging.getLogger(__name__)

WRITE_SECONDS = 2.0
"""Time between two writes; what a kill -9 may lose of the totals."""


@dataclass(slots=True)
class Used:
    """Use of one token since the last write."""

    last: datetime
    requests: int = 0
    tokens: int = 0


class UsageLog:
    """Adds use up, and writes it in the background.

    Args:
        write: Adds to what the store has.
    """

    def __init__(self, write: Callable[[Mapping[str, Used]], Awaitable[None]]) -> None:
        self._write = write
        self._used: dict[str, Used] = {}

    def add(self, token_id: str, *, requests: int = 0, tokens: int = 0) -> None:
        """Count use of a token."""
        now = datetime.now(UTC)
        used = self._used.setdefault(token_id, Used(now))
        used.last = now
        used.requests += requests
        used.tokens += tokens

    async def write_for_ever(self) -> None:
        """Write every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            with suppress(StoreUnavailable):  # which the store has logged; the next may get through
                await self.write()

    async def write(self) -> None:
        """Write what there is.

        Raises:
            StoreUnavailable: It stays here, for the next time.
        """
        if not self._used:
            return
        used, self._used = self._used, {}
        try:
            await self._write(used)
        except BaseException:
            for token_id, lost in used.items():
                now = self._used.setdefault(token_id, Used(lost.last))
                now.requests += lost.requests
                now.tokens += lost.tokens
            raise
