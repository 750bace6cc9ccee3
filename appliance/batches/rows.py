# SPDX-License-Identifier: Apache-2.0
"""The requests of a batch on their way through the engine, a bounded number at a time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from appliance.access.grants import Grant
from appliance.batches.part import Answer, Part, Tally, row
from appliance.batches.requests import Request, read_requests
from appliance.errors import (
    ApplianceError,
    ModelUnavailable,
    Overloaded,
    StoreUnavailable,
    TokensExceeded,
)

__all__ = ["Answering", "Rows"]

Answering = Callable[[bytes, Grant], Awaitable[Answer]]
"""Answers the body of a request, as whoever has a grant. Raises what waiting helps against."""

WINDOW_REQUESTS = 64
WINDOW_BYTES = 1 << 18
"""What is with the engine at once, of bodies; a single one may be larger."""

WRITE_BYTES = 1 << 20
WRITE_SECONDS = 1.0
SYNC_SECONDS = 5.0
"""How much a kill costs, and how much a power cut: it is computed once more."""

LEAST_PAUSE_SECONDS, PAUSE_SECONDS, MOST_PAUSE_SECONDS = 0.1, 1.0, 10.0

_WAITED_OUT = (Overloaded, ModelUnavailable, TokensExceeded, StoreUnavailable)


class _Pending(NamedTuple):
    custom_id: str
    nbytes: int
    task: asyncio.Task[Answer]


class Rows:
    """Has the requests of a batch answered, and writes the answers in their order.

    Args:
        path: The input.
        part: Where the rows go; open.
        tally: Counts them; what it has counted so far is not done again.
        answer: Answers a request.
        grant: Tells what may be done for the batch now.
    """

    def __init__(
        self,
        path: Path,
        part: Part,
        tally: Tally,
        answer: Answering,
        grant: Callable[[], Grant],
    ) -> None:
        self._requests = read_requests(path, tally.rows)
        self._part = part
        self._tally = tally
        self._answer = answer
        self._grant = grant
        self._read: deque[Request] = deque()
        self._is_read = False
        self._pending: deque[_Pending] = deque()
        self._pending_bytes = 0
        self._unwritten = bytearray()
        self._written = self._synced = time.monotonic()

    async def fill(self, halt: asyncio.Event) -> None:
        """Go on until every request is answered, or at once when told to halt.

        Answers that are there by then are kept; what is under way is let go.

        Raises:
            OSError: There is no room.
        """
        halting = asyncio.create_task(halt.wait())
        try:
            while not halt.is_set() and await self._ask():
                await self._wait(halting)
                self._take_answers()
                if self._is_due:
                    await self.write()
            self._take_answers()
        finally:
            tasks = [halting, *(pending.task for pending in self._pending)]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self.write()

    async def write(self) -> None:
        """Write what is in memory."""
        rows, self._unwritten = self._unwritten, bytearray()
        await asyncio.to_thread(self._part.append, rows)
        self._written = time.monotonic()
        if self._written - self._synced >= SYNC_SECONDS:
            await asyncio.to_thread(self._part.sync)
            self._synced = self._written

    async def _ask(self) -> bool:
        """Have as many requests under way as may be; whether there is any."""
        while len(self._pending) < WINDOW_REQUESTS and self._pending_bytes < WINDOW_BYTES:
            if not self._read and not self._is_read:
                self._read.extend(await asyncio.to_thread(_next_requests, self._requests))
                self._is_read = not self._read
            if not self._read:
                break
            request = self._read.popleft()
            body = bytes(request.body)
            task = asyncio.create_task(self._until_answered(body))
            self._pending.append(_Pending(request.custom_id, len(body), task))
            self._pending_bytes += len(body)
        return bool(self._pending)

    @property
    def _is_due(self) -> bool:
        is_late = time.monotonic() - self._written >= WRITE_SECONDS
        return len(self._unwritten) >= WRITE_BYTES or (is_late and bool(self._unwritten))

    async def _wait(self, halting: asyncio.Task[bool]) -> None:
        """Wait for the first answer in the order, or a reason to look."""
        await asyncio.wait(
            {halting, self._pending[0].task},
            timeout=WRITE_SECONDS if self._unwritten else None,
            return_when=asyncio.FIRST_COMPLETED,
        )

    def _take_answers(self) -> None:
        while self._pending and self._pending[0].task.done():
            custom_id, nbytes, task = self._pending.popleft()
            self._pending_bytes -= nbytes
            answer = task.result()
            self._unwritten += row(custom_id, answer)
            self._tally.add(is_good=answer.is_good, tokens=answer.tokens)

    async def _until_answered(self, body: bytes) -> Answer:
        """The answer, however long that takes; a model may be full, or on its way."""
        while True:
            try:
                return await self._answer(body, self._grant())
            except _WAITED_OUT as error:
                await asyncio.sleep(_pause(error))


def _pause(error: ApplianceError) -> float:
    seconds = PAUSE_SECONDS if error.retry_after is None else error.retry_after
    return min(max(seconds, LEAST_PAUSE_SECONDS), MOST_PAUSE_SECONDS)


def _next_requests(requests: Iterator[Request]) -> list[Request]:
    """Some more requests, no more than a window holds."""
    found: list[Request] = []
    size = 0
    for request in requests:
        found.append(request)
        size += len(bytes(request.body))
        if len(found) >= WINDOW_REQUESTS or size >= WINDOW_BYTES:
            break
    return found
