# SPDX-License-Identifier: Apache-2.0
"""Threads that compute, what they have under way, and what becomes of it if they die or hang."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from appliance.engine.batcher import Piece
from appliance.engine.execution import Executor
from appliance.engine.lane import Lane, Place
from appliance.engine.watching import BatchReport
from appliance.errors import InternalError, ModelUnavailable

__all__ = ["Crew", "Taken", "Task", "Worker"]

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Taken:
    """A batch that a worker has taken.

    Attributes:
        started: When, by ``time.perf_counter``.
        is_given_up: Whether it took too long, and was answered for.
    """

    lane: Lane
    place: Place
    pieces: list[Piece]
    executor: Executor
    started: float = field(default_factory=time.perf_counter)
    is_given_up: bool = False

    def __str__(self) -> str:
        return f"a batch of {sum(piece.length for piece in self.pieces)} tokens of {self.lane.name}"

    def report(self, device: str) -> BatchReport:
        """What to tell of it, now that it has ended."""
        jobs = {piece.job: None for piece in self.pieces}
        return BatchReport(
            model=self.lane.name,
            device=device,
            texts=len(self.pieces),
            tokens=sum(piece.length for piece in self.pieces),
            started=self.started,
            seconds=time.perf_counter() - self.started,
            traces=tuple(job.trace for job in jobs if job.trace is not None),
        )

    def fail(self, error: Exception) -> None:
        """Answer its jobs, unless they have been."""
        self.lane.fail_jobs({piece.job: None for piece in self.pieces}, error)


@dataclass(slots=True, eq=False)
class Task:
    """A function that a worker runs.

    Attributes:
        future: Its result, or what it raised.
        started: When a worker took it, by ``time.perf_counter``.
    """

    function: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)
    started: float = 0.0

    def run(self) -> None:
        """Run it. Raises nothing."""
        try:
            result = self.function()
        except BaseException as error:  # it is the caller's, whatever it is
            self.fail(error)
        else:
            with suppress(InvalidStateError):  # it took too long, and was answered for
                self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Answer for it, unless that has been done."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


class Worker:
    """One of a device's threads.

    Args:
        name: The thread's name.
        work: What it does, given the worker.

    Attributes:
        thread: The thread.
        batches: What it has under way; guarded by the device's lock, as is all that follows.
        task: What it runs in between.
        is_dismissed: Whether another has taken its place, so that it is to end.
    """

    def __init__(self, name: str, work: Callable[[Worker], None]) -> None:
        self.batches: list[Taken] = []
        self.task: Task | None = None
        self.is_dismissed = False
        self.thread = threading.Thread(target=work, args=(self,), name=name, daemon=True)

    @property
    def has_died(self) -> bool:
        """Whether it was started and does not run any more."""
        return self.thread.ident is not None and not self.thread.is_alive()

    @property
    def hangs(self) -> bool:
        """Whether a batch of its was given up, and has not ended since."""
        return any(batch.is_given_up for batch in self.batches)


class Crew:
    """The workers of one device.

    Args:
        device: The device's name.
        count: How many there are.
        work: What each does, given itself.
        lock: The device's, which guards what they have under way.
        forward_timeout: Seconds after which a batch or a task is taken to hang.
    """

    def __init__(
        self,
        device: str,
        count: int,
        work: Callable[[Worker], None],
        lock: threading.Lock,
        forward_timeout: float,
    ) -> None:
        self._device = device
        self._work = work
        self._lock = lock
        self._forward_timeout = forward_timeout
        self._workers = [Worker(f"{device}-worker-{number}", work) for number in range(count)]
        self._dismissed: list[Worker] = []

    def start(self) -> None:
        """Start them."""
        for worker in self._workers:
            worker.thread.start()

    def stop(self, seconds: float, error: Exception) -> None:
        """Wait for those that were told to end, and answer for what they do not.

        Args:
            seconds: Longest wait.
            error: The answer.
        """
        end = time.monotonic() + seconds
        for worker in self._workers:
            worker.thread.join(max(0.0, end - time.monotonic()))
        for taken in self._under_way():
            logger.error("%s: %s did not end", self._device, taken)
            taken.fail(error)
        for worker in self._workers:
            if (task := worker.task) is not None:
                task.fail(error)

    @property
    def is_alive(self) -> bool:
        """Whether a thread runs, be it one that is not waited for any more."""
        return any(worker.thread.is_alive() for worker in (*self._workers, *self._dismissed))

    @property
    def is_stuck(self) -> bool:
        """Whether each of them hangs. Called with the lock held."""
        return all(worker.hangs for worker in self._workers)

    @property
    def fault(self) -> str:
        """What keeps them from their work; empty if nothing does."""
        if any(not worker.thread.is_alive() for worker in self._workers):
            return f"a worker of {self._device} does not run"
        late = [taken for taken in self._under_way() if self._is_late(taken)]
        return f"{self._device} hangs: {self._told(late[0])}" if late else ""

    def replace(self) -> None:
        """Replace those that have died, or hang in a task, and answer for what they had."""
        with self._lock:
            dead = [worker for worker in self._workers if worker.has_died]
            lost = [taken for worker in dead for taken in worker.batches]
            for taken in lost:
                taken.place.copy.running -= 1
            hung = {
                worker: worker.task
                for worker in self._workers
                if worker.task is not None and self._is_late(worker.task)
            }
            self._dismissed += hung
            for worker in hung:
                self._dismiss(worker)
        for worker in dead:
            logger.error("%s has died and is replaced", worker.thread.name)
        for taken in lost:
            logger.error("%s: %s is lost with its worker", self._device, taken)
            taken.fail(InternalError("the thread that computed it has died"))
        for worker, task in hung.items():
            logger.error("%s hangs in a trial pass and is replaced", worker.thread.name)
            task.fail(
                ModelUnavailable(
                    f"its trial passes on {self._device} did not end within"
                    f" {self._forward_timeout:g} s (forward_timeout_seconds)"
                )
            )
        with self._lock:
            for worker in dead:  # not before, or the heir would take the rest of what killed it
                self._dismiss(worker)

    def give_up_late(self) -> None:
        """Answer for batches that take too long; they run on, as nothing can end them."""
        for taken in self._under_way():
            if self._is_late(taken) and not taken.is_given_up:
                taken.is_given_up = True
                logger.error("%s hangs: %s", self._device, self._told(taken))
                taken.fail(ModelUnavailable("The model takes too long to answer.", retry_after=5))

    def _dismiss(self, worker: Worker) -> None:
        worker.is_dismissed = True
        heir = Worker(worker.thread.name, self._work)
        self._workers[self._workers.index(worker)] = heir
        heir.thread.start()

    def _under_way(self) -> list[Taken]:
        with self._lock:
            return [taken for worker in self._workers for taken in worker.batches]

    def _is_late(self, work: Taken | Task) -> bool:
        return time.perf_counter() - work.started > self._forward_timeout

    def _told(self, taken: Taken) -> str:
        return f"{taken} has been under way for more than {self._forward_timeout:g} s"
