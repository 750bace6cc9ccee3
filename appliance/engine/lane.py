# SPDX-License-Identifier: Apache-2.0
"""One model as the devices see it: the texts that wait, and its copies on the devices."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from appliance.engine.backend import Backend
from appliance.engine.batcher import FairQueue
from appliance.engine.budget import BatchBudget
from appliance.engine.copies import Copy, Demand
from appliance.engine.execution import Executor, fail
from appliance.engine.jobs import Job
from appliance.engine.types import Priority
from appliance.errors import ModelUnavailable

__all__ = ["Lane", "Place", "Station", "stuck_error"]


class Station(Protocol):
    """What a lane needs of a device that serves it."""

    @property
    def idle(self) -> int:
        """Workers that wait for work."""

    @property
    def is_stuck(self) -> bool:
        """Whether each of its workers hangs. Called with the lock held."""

    def batch_tokens(self, backend: Backend, most: int) -> int:
        """Tokens of a model's batches: the most that is set, and no more than is fast."""

    def wake(self) -> None:
        """Wake a worker, if one waits. Called with the lock held."""


@dataclass(slots=True, eq=False)
class Place:
    """What a model has on one device.

    Attributes:
        copy: Where its weights are.
        load: Loads it from its own files and gets it ready; takes seconds, on any thread.
        executor: Runs its batches; ``None`` before it was first loaded.
        last_finished: When the last batch ended, by ``time.perf_counter``.
    """

    copy: Copy
    load: Callable[[], Backend]
    executor: Executor | None = None
    last_finished: float = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it takes another batch now."""
        if self.executor is None or not self.copy.is_open:
            return False
        return not (self.copy.running and self.executor.backend.runs_alone)

    @property
    def backend(self) -> Backend:
        """The model. Only where it has been loaded."""
        assert self.executor is not None
        return self.executor.backend


class Lane:
    """One model: the texts that wait for it, and its copies on the devices that serve them.

    Args:
        name: The model's name.
        lock: The lock of all devices that serve it; guards all that changes here.
        max_batch_tokens: Most tokens of a batch.
        max_batch_requests: Most texts of a batch.
        look: Called with the lock held when there is work and no copy on a device.

    Attributes:
        queue: The texts that wait.
        demand: Since when they wait.
        places: Its copies.
        tokens_done: Tokens computed so far.
        seconds_busy: Time in which at least one batch was worked on, summed over the devices.
    """

    def __init__(
        self,
        name: str,
        lock: threading.Lock,
        max_batch_tokens: int,
        max_batch_requests: int | None = None,
        look: Callable[[], object] = lambda: None,
    ) -> None:
        self.name = name
        self.max_batch_requests = max_batch_requests
        self.queue = FairQueue(quantum=max_batch_tokens)
        self.demand = Demand()
        self.places: dict[Station, Place] = {}
        self.tokens_done = 0
        self.seconds_busy = 0.0
        self._lock = lock
        self._look = look
        self._max_batch_tokens = max_batch_tokens
        self._backend: Backend | None = None
        self._closed: Exception | None = None
        self._is_wanted = False

    @property
    def backend(self) -> Backend:
        """A copy, for what all have in common. Only where one has been loaded."""
        assert self._backend is not None
        return self._backend

    @property
    def copies(self) -> list[Copy]:
        """Its copies, wherever their weights are."""
        return [place.copy for place in self.places.values()]

    @property
    def is_loaded(self) -> bool:
        """Whether a copy has ever been loaded."""
        return self._backend is not None

    @property
    def is_stuck(self) -> bool:
        """Whether all of its devices hang, so that waiting is in vain. With the lock held."""
        return bool(self.places) and all(device.is_stuck for device in self.places)

    def install(self, device: Station, backend: Backend) -> None:
        """Serve by a backend that was just loaded. Called with the lock held."""
        budget = BatchBudget(device.batch_tokens(backend, self._max_batch_tokens))
        self.places[device].executor = Executor(self.name, backend, budget)
        executors = [place.executor for place in self.places.values() if place.executor]
        self.queue.quantum = max(executor.budget.tokens for executor in executors)
        self._backend = backend

    def submit(self, job: Job) -> None:
        """Let a job wait. It must have at least one text."""
        with self._lock:
            closed = self._closed or (stuck_error(self.name) if self.is_stuck else None)
            if closed is None:
                self.queue.add(job)
                self.note_work()
                if not any(copy.is_here for copy in self.copies):
                    self._look()  # the workers may all be busy, and weights can move meanwhile
                self.wake()  # who is woken looks too, and knows when to look again
        if closed is not None:
            fail(job, closed)

    def cancel(self, job: Job) -> None:
        """Take back what of a job still waits. Its batch in flight, if any, is let run out."""
        with self._lock:
            job.cancelled = True
            self.queue.discard(job)
            self._note_less_work()

    def give_up(self, job: Job, error: Exception) -> None:
        """Answer a job with an error, unless work on it has begun."""
        with self._lock:
            taken_out = self.queue.discard(job, unless_begun=True)
            if taken_out:
                self._note_less_work()
        if taken_out:
            fail(job, error)

    def fail_jobs(self, jobs: Iterable[Job], error: Exception) -> None:
        """Answer jobs with an error, unless they have been, and drop what waits of them."""
        kept = list(jobs)
        with self._lock:
            for job in kept:
                self.queue.discard(job)
            self._note_less_work()
        for job in kept:
            fail(job, error)

    def fail_waiting(self, error: Exception, *, close: bool = False) -> None:
        """Answer all that waits with an error.

        Args:
            error: The answer.
            close: Answer whatever comes later likewise.
        """
        with self._lock:
            if close:
                self._closed = error
            pieces = self.queue.take(self.queue.tokens + 1)
            self._is_wanted = False
            self._note_less_work()
        for job in {piece.job: None for piece in pieces}:
            fail(job, error)

    def want(self) -> None:
        """Have a copy come as if work waited, unless one is there. Called with the lock held."""
        if not any(copy.is_here for copy in self.copies):
            self._is_wanted = True
            self.note_work()
            self._look()
            self.wake()

    def note_work(self, *, came: bool = False) -> None:
        """Keep ``demand`` true to the queue. Called with the lock held.

        Args:
            came: A copy has come, and whoever waited for no more than this has it.
        """
        self._is_wanted = self._is_wanted and not came
        if not len(self.queue) and not self._is_wanted:
            self.demand.since = None
        elif self.demand.since is None:
            self.demand.since = time.perf_counter()

    def _note_less_work(self) -> None:
        self.note_work()
        self._look()  # what waited behind it, or was told to leave once it is done, may now
        self.wake()

    def wake(self) -> None:
        """Wake one worker on each device, if one waits. Called with the lock held."""
        for device in self.places:
            device.wake()

    @property
    def idle_workers(self) -> int:
        """Workers that wait for work, on all of its devices."""
        return sum(device.idle for device in self.places)

    @property
    def seconds_to_drain(self) -> float:
        """Time that the waiting texts will take, at the pace so far; 1 before the first batch."""
        if not self.tokens_done:
            return 1.0
        return self._seconds(self.queue.tokens)

    def seconds_before(self, tokens: int, priority: Priority) -> float:
        """Least time before a request that came now would be begun, at the pace so far.

        Args:
            tokens: Of the request.
            priority: Its class.
        """
        if not self.tokens_done:
            return 0.0
        with self._lock:
            before = self.queue.tokens_before(tokens, priority)
        return self._seconds(before)

    def _seconds(self, tokens: int) -> float:
        return tokens * self.seconds_busy / self.tokens_done / len(self.places)


def stuck_error(name: str) -> ModelUnavailable:
    """What is answered for a model whose devices all hang."""
    return ModelUnavailable(f"The device of the model '{name}' hangs.", retry_after=5)
