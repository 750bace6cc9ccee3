# SPDX-License-Identifier: Apache-2.0
"""Which texts run next. Pure: no torch, no threads, no clock.

Waiting requests share the device by weighted fair queueing with equal weights (Demers, Keshav and
Shenker, SIGCOMM '89). A virtual clock runs at the pace at which each request would be served if all
that wait were served evenly at once. Each request is cut into quanta of at most ``quantum`` tokens,
and the quantum that would be finished first by that clock goes first. So a short request passes a
long one's later quanta, and a stream of short ones cannot keep a long one from its share.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from appliance.engine.types import Job

__all__ = ["BatchBudget", "FairQueue", "Piece", "length_buckets"]


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
    finish: float
    """Virtual time at which the current quantum would be finished under even service."""
    next_index: int = 0
    quantum_end: int = 0
    """Index of the first text behind the current quantum."""

    def __lt__(self, other: _Waiting) -> bool:
        return (self.finish, self.order) < (other.finish, other.order)

    def begin_quantum(self, start: float, quantum: int) -> None:
        texts, tokens = self.job.texts, 0
        self.quantum_end = self.next_index
        while self.quantum_end < len(texts) and tokens < quantum:
            tokens += len(texts[self.quantum_end])
            self.quantum_end += 1
        self.finish = start + tokens


class FairQueue:
    """Texts that wait for one model.

    Args:
        quantum: Tokens that one request may have served in a row while others wait.
    """

    def __init__(self, quantum: int) -> None:
        self.quantum = quantum
        self._heap: list[_Waiting] = []
        self._virtual_time = 0.0
        self._arrivals = 0
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, job: Job) -> None:
        """Let a job wait. It must have at least one text."""
        waiting = _Waiting(job, self._arrivals, 0.0)
        waiting.begin_quantum(self._virtual_time, self.quantum)
        heapq.heappush(self._heap, waiting)
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
        self._virtual_time += length / len(self._heap)
        waiting.next_index += 1
        if waiting.next_index == len(waiting.job.texts):
            heapq.heappop(self._heap)
        elif waiting.next_index == waiting.quantum_end:
            waiting.begin_quantum(waiting.finish, self.quantum)
            heapq.heapreplace(self._heap, waiting)


class BatchBudget:
    """Tokens of a batch that fit in a device's memory, as far as is known.

    Halved when a batch did not fit, and doubled again after a number of good batches that were
    large enough to tell. That number doubles with each failure, so that a size that never fits is
    tried ever more rarely.

    Args:
        most: Tokens that it never exceeds.
    """

    FIRST_PATIENCE = 16
    MOST_PATIENCE = 1024

    def __init__(self, most: int) -> None:
        self.tokens = most
        self._most = most
        self._good = 0
        self._patience = self.FIRST_PATIENCE

    def shrink(self, tokens: int) -> None:
        """A batch of so many tokens did not fit."""
        self.tokens = max(1, min(self.tokens, tokens) // 2)
        self._good = 0
        self._patience = min(2 * self._patience, self.MOST_PATIENCE)

    def passed(self, tokens: int) -> None:
        """A batch of so many tokens did fit."""
        if self.tokens == self._most or 2 * tokens < self.tokens:
            return
        self._good += 1
        if self._good >= self._patience:
            self.tokens = min(2 * self.tokens, self._most)
            self._good = 0


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
