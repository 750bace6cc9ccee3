# SPDX-License-Identifier: Apache-2.0
"""Which texts run next. Pure: no torch, no threads, no clock.

Waiting requests share the device by weighted fair queueing with equal weights (Demers, Keshav and
Shenker, SIGCOMM '89). A virtual clock runs at the pace at which each request would be served if all
that wait were served evenly at once. Each request is cut into quanta of at most ``quantum`` tokens,
and the quantum that would be finished first by that clock goes first. So a short request passes a
long one's later quanta, and a stream of short ones cannot keep a long one from its share.

Requests of different priority wait in queues of their own. A higher one goes first, and whatever
it takes while a lower one waits earns that one a small share, so that none waits for ever.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from appliance.engine.jobs import Job
from appliance.engine.types import PRIORITIES, Priority

__all__ = ["BACKGROUND", "FairQueue", "Piece", "length_buckets"]

BACKGROUND: Priority = PRIORITIES[-1]
"""The class that nobody waits for in front of a screen."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One text of one job."""

    job: Job
    index: int

    @property
    def length(self) -> int:
        """Tokens of the text."""
        return len(self.job.texts[self.index])

    @property
    def second_start(self) -> int:
        """Where its second half starts, if it is a pair; else 0."""
        starts = self.job.second_starts
        return starts[self.index] if starts else 0


@dataclass(slots=True)
class _Waiting:
    job: Job
    order: int
    finish: float
    """Virtual time at which the current quantum would be finished under even service."""
    start: float = 0.0
    """Virtual time at which it would be begun."""
    tokens: int = 0
    """Tokens that wait."""
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
        self.start = start
        self.finish = start + tokens


class _Class:
    """Texts of one priority."""

    def __init__(self) -> None:
        self.heap: list[_Waiting] = []
        self.tokens = 0
        """Of all its texts."""
        self.earned = 0.0
        """Tokens that it may have served before those of a higher priority."""
        self._virtual_time = 0.0
        self._arrivals = 0

    def add(self, job: Job, quantum: int) -> None:
        waiting = _Waiting(job, self._arrivals, 0.0, tokens=job.tokens)
        waiting.begin_quantum(self._virtual_time, quantum)
        heapq.heappush(self.heap, waiting)
        self.tokens += job.tokens
        self._arrivals += 1

    def tokens_before(self, tokens: int) -> int:
        """Tokens that would be served before as many of a job that came now."""
        end = self._virtual_time + tokens
        before = 0
        for waiting in self.heap:  # asked for each request that is refused, of hundreds that wait
            # What goes past the end of its quantum begins another, at the same pace.
            due = end - waiting.start
            if due > 0:
                before += waiting.tokens if waiting.tokens < due else int(due)
        return before

    def remove(self, position: int) -> None:
        self.tokens -= self.heap[position].tokens
        del self.heap[position]
        heapq.heapify(self.heap)
        if not self.heap:
            self.earned = 0.0

    @property
    def next_length(self) -> int:
        """Tokens of its next text. Only where there is one."""
        waiting = self.heap[0]
        return len(waiting.job.texts[waiting.next_index])

    def pop(self, length: int, quantum: int) -> Piece:
        """Take out the next text, which has so many tokens."""
        waiting = self.heap[0]
        piece = Piece(waiting.job, waiting.next_index)
        self._virtual_time += length / len(self.heap)
        waiting.next_index += 1
        waiting.tokens -= length
        self.tokens -= length
        if waiting.next_index == len(waiting.job.texts):
            heapq.heappop(self.heap)
        elif waiting.next_index == waiting.quantum_end:
            waiting.begin_quantum(waiting.finish, quantum)
            heapq.heapreplace(self.heap, waiting)
        if self.earned:
            self.earned = max(0.0, self.earned - length) if self.heap else 0.0
        return piece


class FairQueue:
    """Texts that wait for one model.

    Args:
        quantum: Tokens that one request may have served in a row while others wait.
    """

    SHARE = 1 / 16
    """What a class is served, while it waits, of each token that goes to higher ones."""

    def __init__(self, quantum: int) -> None:
        self.quantum = quantum
        self._classes = [_Class() for _ in PRIORITIES]  # highest first

    def __len__(self) -> int:
        return sum(len(each.heap) for each in self._classes)

    @property
    def texts(self) -> int:
        """Texts of all jobs that wait."""
        return sum(
            len(waiting.job.texts) - waiting.next_index
            for each in self._classes
            for waiting in each.heap
        )

    @property
    def tokens(self) -> int:
        """Tokens of all texts that wait."""
        return sum(each.tokens for each in self._classes)

    @property
    def pressing(self) -> int:
        """Tokens of those above the background."""
        return sum(each.tokens for each in self._classes[:-1])

    def add(self, job: Job) -> None:
        """Let a job wait. It must have at least one text."""
        self._classes[PRIORITIES.index(job.priority)].add(job, self.quantum)

    def discard(self, job: Job, *, unless_begun: bool = False) -> bool:
        """Take a job's remaining texts out; nothing happens if it does not wait.

        Args:
            job: The job.
            unless_begun: Leave it where a text of it has been taken.

        Returns:
            Whether anything was taken out.
        """
        own = self._classes[PRIORITIES.index(job.priority)]
        for position, waiting in enumerate(own.heap):
            if waiting.job is job:
                if unless_begun and waiting.next_index:
                    return False
                own.remove(position)
                return True
        return False

    def tokens_before(self, tokens: int, priority: Priority) -> int:
        """Tokens that would be served before the first quantum of a job that came now.

        Args:
            tokens: Of the job.
            priority: Of the job.
        """
        own = PRIORITIES.index(priority)
        higher = sum(each.tokens for each in self._classes[:own])
        return higher + self._classes[own].tokens_before(min(tokens, self.quantum))

    def take(self, max_tokens: int, max_texts: int | None = None) -> list[Piece]:
        """Remove the texts of the next batch.

        A text longer than ``max_tokens`` makes a batch of its own. The background has batches of
        its own but for the share that it has earned: what waits behind a batch should not wait for
        what nobody waits for.

        Args:
            max_tokens: Most tokens of the batch.
            max_texts: Most texts of the batch.

        Returns:
            Pieces in the order of service; empty only if nothing waits.
        """
        pieces: list[Piece] = []
        room = max_tokens
        waiting = self._waiting()
        while waiting and (max_texts is None or len(pieces) < max_texts):
            chosen = waiting[0] if len(waiting) == 1 else _next_class(waiting)
            length = chosen.next_length
            if pieces and (length > room or self._is_to_itself(chosen, pieces[0])):
                break
            pieces.append(chosen.pop(length, self.quantum))
            room -= length
            if len(waiting) > 1:
                for lower in waiting[waiting.index(chosen) + 1 :]:
                    lower.earned += length * self.SHARE
            if not chosen.heap:
                waiting = self._waiting()
        return pieces

    def _is_to_itself(self, chosen: _Class, first: Piece) -> bool:
        """Whether a class stays out of a batch that begins so."""
        if chosen is not self._classes[-1] or first.job.priority == BACKGROUND:
            return False
        return chosen.earned < chosen.next_length

    def _waiting(self) -> list[_Class]:
        return [each for each in self._classes if each.heap]


def _next_class(waiting: Sequence[_Class]) -> _Class:
    """The highest, unless a lower one has earned the service of its next text."""
    for each in reversed(waiting[1:]):
        if each.earned >= each.next_length:
            return each
    return waiting[0]


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
