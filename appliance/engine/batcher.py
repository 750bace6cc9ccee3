# SPDX-License-Identifier: Apache-2.0
"""Which texts run next. Pure: no torch, no threads, no clock.

Waiting requests share the device by start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM '96).
Each request is cut into quanta of at most ``quantum`` tokens, and each quantum carries the virtual
time at which it would start if every waiting request were served evenly. The lowest start goes
first. A request that comes alone while a long one is being served starts at the present virtual
time, ahead of all quanta of the long one but the current; requests of one quantum or less are
served in the order they came.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from appliance.engine.types import Job

__all__ = ["FairQueue", "Piece", "length_buckets"]


@dataclass(frozen=True, slots=True)
class Piece:
    """One text of one job."""

    job: Job
    index: int

    @property
    def length(self) -> int:
        """Tokens of the text."""
        return len(self.job.texts[self.index])


@dataclass(slots=True)
class _Waiting:
    job: Job
    order: int
    start: float
    next_index: int = 0
    taken: int = 0
    """Tokens taken of the current quantum."""

    def __lt__(self, other: _Waiting) -> bool:
        return (self.start, self.order) < (other.start, other.order)


class FairQueue:
    """Texts that wait for one model.

    Args:
        quantum: Tokens that one request may have served in a row while others wait.
    """

    def __init__(self, quantum: int) -> None:
        self._quantum = quantum
        self._heap: list[_Waiting] = []
        self._virtual_time = 0.0
        self._arrivals = 0
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, job: Job) -> None:
        """Let a job wait. It must have at least one text."""
        heapq.heappush(self._heap, _Waiting(job, self._arrivals, self._virtual_time))
        self._arrivals += 1
        self.tokens += job.tokens

    def discard(self, job: Job) -> None:
        """Take a job's remaining texts out; nothing happens if it does not wait."""
        for position, waiting in enumerate(self._heap):
            if waiting.job is job:
                self.tokens -= sum(len(text) for text in job.texts[waiting.next_index :])
                del self._heap[position]
                heapq.heapify(self._heap)
                return

    def take(self, max_tokens: int, max_texts: int | None = None) -> list[Piece]:
        """Remove the texts of the next batch.

        A text longer than ``max_tokens`` makes a batch of its own.

        Args:
            max_tokens: Most tokens of the batch.
            max_texts: Most texts of the batch.

        Returns:
            Pieces in the order of service; empty only if nothing waits.
        """
        pieces: list[Piece] = []
        room = max_tokens
        while self._heap and (max_texts is None or len(pieces) < max_texts):
            waiting = self._heap[0]
            length = len(waiting.job.texts[waiting.next_index])
            if pieces and length > room:
                break
            pieces.append(Piece(waiting.job, waiting.next_index))
            room -= length
            self._advance(waiting, length)
        return pieces

    def _advance(self, waiting: _Waiting, length: int) -> None:
        self.tokens -= length
        self._virtual_time = max(self._virtual_time, waiting.start)
        waiting.next_index += 1
        waiting.taken += length
        if waiting.next_index == len(waiting.job.texts):
            heapq.heappop(self._heap)
        elif waiting.taken >= self._quantum:
            waiting.start += waiting.taken
            waiting.taken = 0
            heapq.heapreplace(self._heap, waiting)


def length_buckets(
    lengths: Sequence[int], max_tokens: int, waste: float = 0.15
) -> Iterator[list[int]]:
    """Split texts into groups that can be padded cheaply.

    Args:
        lengths: Tokens of each text.
        max_tokens: Most tokens of a group, padding counted.
        waste: Largest share of padding in a group.

    Yields:
        Positions in ``lengths``, longest first.
    """
    group: list[int] = []
    real = 0
    for position in sorted(range(len(lengths)), key=lambda p: -lengths[p]):
        longest = lengths[group[0]] if group else lengths[position]
        padded = longest * (len(group) + 1)
        too_wasteful = real + lengths[position] < (1 - waste) * padded
        if group and (padded > max_tokens or too_wasteful):
            yield group
            group, real = [], 0
        group.append(position)
        real += lengths[position]
    if group:
        yield group
