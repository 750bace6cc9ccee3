# SPDX-License-Identifier: Apache-2.0
"""The threads that compute.

A device pulls its work: whenever a worker is free it takes the next batch under the device's lock,
so that batches form while the device is busy and a text that arrives alone leaves at once. An
accelerator has one worker, which queues a batch's kernels while those of the batch before still
run. A CPU has several, each with its share of the cores: small batches stay in a core's caches, and
a worker that loses its core to another process holds up no other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from appliance.engine.batcher import BatchBudget, FairQueue, Piece
from appliance.engine.cores import share_cores
from appliance.engine.execution import Executor, Place, fail
from appliance.engine.types import Backend, Job
from appliance.errors import ModelUnavailable

__all__ = ["Device", "Lane"]

logger = logging.getLogger(__name__)

CPU_BATCH_TOKENS = 768
"""Tokens of a batch that a core's caches still hold. Measured with all-MiniLM-L6-v2 on two cores:
512 to 1024 are within 3 % of each other, 256 and 384 some 5 % slower."""

MIN_CPU_SHARE = 64
MIN_ACCELERATOR_SHARE = 2048
"""Fewer tokens than this are not worth splitting between idle workers."""

Finish = Callable[[], None]


class Lane:
    """One model: the texts that wait for it, and its copies on the devices that serve them.

    Args:
        name: The model's name.
        backends: Its copies, by device; all devices share one lock.
        max_batch_tokens: Most tokens of a batch.
        max_batch_requests: Most texts of a batch.
    """

    def __init__(
        self,
        name: str,
        backends: Mapping[Device, Backend],
        max_batch_tokens: int,
        max_batch_requests: int | None = None,
    ) -> None:
        self.name = name
        self.max_batch_requests = max_batch_requests
        self.places = {
            device: Place(
                Executor(name, backend, BatchBudget(device.batch_tokens(backend, max_batch_tokens)))
            )
            for device, backend in backends.items()
        }
        executors = [place.executor for place in self.places.values()]
        self.backend = executors[0].backend
        """The first copy, for what all have in common."""
        self.queue = FairQueue(quantum=max(executor.budget.tokens for executor in executors))
        self.tokens_done = 0
        self.seconds_busy = 0.0
        """Time in which at least one batch was worked on, summed over the devices."""

    def submit(self, job: Job) -> None:
        """Let a job wait. It must have at least one text."""
        device = next(iter(self.places))
        device.submit(self, job)

    def cancel(self, job: Job) -> None:
        """Take back what of a job still waits. Its batch in flight, if any, is let run out."""
        device = next(iter(self.places))
        device.cancel(self, job)

    @property
    def idle_workers(self) -> int:
        """Workers that wait for work, on all of its devices."""
        return sum(device.idle for device in self.places)

    @property
    def seconds_to_drain(self) -> float:
        """Time that the waiting texts will take, at the pace so far; 1 before the first batch."""
        if not self.tokens_done:
            return 1.0
        return self.queue.tokens * self.seconds_busy / self.tokens_done / len(self.places)


@dataclass(slots=True)
class Taken:
    """A batch that a worker has taken."""

    lane: Lane
    place: Place
    pieces: list[Piece]
    started: float = field(default_factory=time.perf_counter)


class Device:
    """A device, its workers and its lanes.

    Args:
        name: ``cpu``, or an accelerator's name such as ``cuda:0``.
        cpu_workers: Batches at once on a CPU. Unset: one for each core,
            :data:`~appliance.engine.cores.MAX_CPU_WORKERS` at most.
        lock: Shared by devices that serve copies of one model.

    Attributes:
        workers: Batches at once.
        idle: Workers that wait for work.
    """

    def __init__(
        self,
        name: str = "cpu",
        cpu_workers: int | None = None,
        lock: threading.Lock | None = None,
    ) -> None:
        self._on_cpu = name == "cpu"
        self.workers, self._threads_per_worker = share_cores(cpu_workers if self._on_cpu else 1)
        self.idle = 0
        self._lanes: deque[Lane] = deque()
        self._tasks: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition(lock)
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-worker-{number}", daemon=True)
            for number in range(self.workers)
        ]

    def start(self) -> None:
        """Start the workers."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the workers once their current batches are done; waiting jobs fail."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        for lane in self._lanes:
            for job in {piece.job: None for piece in lane.queue.take(lane.queue.tokens + 1)}:
                fail(job, _stopping())

    @property
    def alive(self) -> bool:
        """Whether every worker runs."""
        return all(thread.is_alive() for thread in self._threads)

    def batch_tokens(self, backend: Backend, most: int) -> int:
        """Tokens of a model's batches: the most that is set, and no more than is fast."""
        # A model that brings its weights along for each batch wants large ones.
        return min(most, CPU_BATCH_TOKENS) if self._on_cpu and not backend.runs_alone else most

    def add(self, lane: Lane) -> None:
        """Make room for a model."""
        with self._changed:
            self._lanes.append(lane)

    def submit(self, lane: Lane, job: Job) -> None:
        """Let a job wait for its model. It must have at least one text."""
        with self._changed:
            if not self._stopping:
                lane.queue.add(job)
                self._wake(lane)
                return
        fail(job, _stopping())

    def cancel(self, lane: Lane, job: Job) -> None:
        """Take back what of a job still waits. Its batch in flight, if any, is let run out."""
        with self._changed:
            job.cancelled = True
            lane.queue.discard(job)

    def run(self, function: Callable[[], Any]) -> Future[Any]:
        """Run a function on a worker, before any batch that waits."""
        future: Future[Any] = Future()

        def task() -> None:
            try:
                future.set_result(function())
            except BaseException as error:  # it is the caller's, whatever it is
                future.set_exception(error)

        with self._changed:
            self._tasks.append(task)
            self._changed.notify()
        return future

    def _work(self) -> None:
        # Not at the top: the port answers before torch is read from disk.
        import torch

        torch.set_num_threads(self._threads_per_worker)
        pending: Finish | None = None
        while (work := self._next(wait=pending is None)) is not None or pending is not None:
            finish: Finish | None = None
            try:
                finish = self._launch(work) if isinstance(work, Taken) else work and work()
                if self._on_cpu:  # a batch is ended at once; none is ever pending before it
                    pending, finish = finish, None
                if pending is not None:
                    pending()
            except Exception:  # a worker outlives whatever a batch does
                logger.exception("a fault of the device's own")
            pending = finish

    def _next(self, *, wait: bool) -> Taken | Callable[[], None] | None:
        """What to do next; ``None`` to stop, or where nothing is there and nobody should wait."""
        with self._changed:
            self.idle += 1
            try:
                while not self._stopping:
                    if wait and self._tasks:  # a task finds no batch under way on this worker
                        return self._tasks.popleft()
                    if (batch := self._next_batch()) is not None:
                        return batch
                    if not wait:
                        return None
                    self._changed.wait()
            finally:
                self.idle -= 1
        return None

    def _next_batch(self) -> Taken | None:
        for _ in range(len(self._lanes)):
            lane = self._lanes[0]
            self._lanes.rotate(-1)  # models take turns
            place = lane.places[self]
            if len(lane.queue) and place.is_open:
                pieces = lane.queue.take(self._budget(lane, place), lane.max_batch_requests)
                place.running += 1
                for other in self._lanes:
                    if len(other.queue):
                        self._wake(other)
                return Taken(lane, place, pieces)
        return None

    def _budget(self, lane: Lane, place: Place) -> int:
        """Tokens of the next batch: what waits is shared out among the idle workers."""
        most = place.executor.budget.tokens
        if place.executor.backend.runs_alone:
            return most
        share = -(-lane.queue.tokens // max(1, lane.idle_workers))
        return min(max(share, MIN_CPU_SHARE if self._on_cpu else MIN_ACCELERATOR_SHARE), most)

    @staticmethod
    def _wake(lane: Lane) -> None:
        """Wake one worker on each of a lane's devices, if one waits. Called with the lock held."""
        for device in lane.places:
            device._changed.notify()

    def _launch(self, taken: Taken) -> Finish:
        finish = taken.place.executor.launch(taken.pieces)

        def finish_and_count() -> None:
            try:
                if finish is not None:
                    finish()
            finally:
                self._count(taken)

        return finish_and_count

    def _count(self, taken: Taken) -> None:
        now = time.perf_counter()
        lane, place = taken.lane, taken.place
        with self._changed:
            place.running -= 1
            lane.tokens_done += sum(piece.length for piece in taken.pieces)
            # Batches overlap: on a CPU beside each other, on a GPU one queued behind another.
            lane.seconds_busy += now - max(taken.started, place.last_finished)
            place.last_finished = now


def _stopping() -> ModelUnavailable:
    return ModelUnavailable("The server is stopping.", retry_after=5)
