# SPDX-License-Identifier: Apache-2.0
"""The threads that compute.

A device pulls its work: whenever a worker is free it takes the next batch under the device's lock,
so that batches form while the device is busy and a text that arrives alone leaves at once. An
accelerator has one worker, which queues a batch's kernels while those of the batch before still
run. A CPU has several, each with its share of the cores: small batches stay in a core's caches, and
a worker that loses its core to another process holds up no other.

Whoever owns a device looks after it once in a while: a worker that has died is replaced, and for a
batch that does not come to an end its requests are answered. See :meth:`Device.look_after`.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from appliance.engine.backend import Backend
from appliance.engine.background import Background
from appliance.engine.cores import share_cores
from appliance.engine.lane import Lane, Place, stuck_error
from appliance.engine.watching import UNWATCHED, Watcher
from appliance.engine.worker import Crew, Taken, Task, Worker
from appliance.errors import ModelUnavailable

__all__ = ["Device"]

logger = logging.getLogger(__name__)

CPU_BATCH_TOKENS = 768
"""Tokens of a batch that a core's caches still hold. Measured with all-MiniLM-L6-v2 on two cores:
512 to 1024 are within 3 % of each other, 256 and 384 some 5 % slower."""

MIN_CPU_SHARE = 64
MIN_ACCELERATOR_SHARE = 2048
"""Fewer tokens than this are not worth splitting between idle workers."""

STOP_SECONDS = 10.0
"""Time that batches under way have to end when the device is stopped; they may hang."""

Finish = Callable[[], None]


class Device:
    """A device, its workers and its lanes.

    Args:
        name: ``cpu``, or an accelerator's name such as ``cuda:0``.
        cpu_workers: Batches at once on a CPU. Unset: one for each core,
            :data:`~appliance.engine.cores.MAX_CPU_WORKERS` at most.
        lock: Shared by all devices, and by whoever moves weights.
        look: Called with the lock held whenever a worker looks for work: sees to it that the
            weights come for which work waits. Returns the seconds after which to look again.
        forward_timeout: Seconds after which a batch or a task is taken to hang.
        watcher: Told of each batch.

    Attributes:
        name: The device's name.
        lock: Guards all that waits.
        workers: Batches at once.
        threads_per_worker: Cores of each worker.
        idle: Workers that wait for work.
    """

    def __init__(
        self,
        name: str = "cpu",
        cpu_workers: int | None = None,
        lock: threading.Lock | None = None,
        look: Callable[[], float | None] = lambda: None,
        forward_timeout: float = math.inf,
        watcher: Watcher = UNWATCHED,
    ) -> None:
        self.name = name
        self._watcher = watcher
        self._on_cpu = name == "cpu"
        self._look = look
        self.workers, self.threads_per_worker = share_cores(cpu_workers if self._on_cpu else 1)
        self.idle = 0
        self._background = Background(self.workers)
        self._lanes: deque[Lane] = deque()
        self._tasks: deque[Task] = deque()
        self.lock = threading.Lock() if lock is None else lock
        self._changed = threading.Condition(self.lock)
        self._stopping = False
        self._crew = Crew(name, self.workers, self._work, self.lock, forward_timeout)

    def start(self) -> None:
        """Start the workers."""
        self._crew.start()

    def stop(self) -> None:
        """Stop the workers once their current batches are done; whatever waits fails."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            tasks = list(self._tasks)
            self._tasks.clear()
        for lane in list(self._lanes):
            lane.fail_waiting(_stopping(), close=True)
        for task in tasks:
            task.fail(_stopping())
        self._crew.stop(STOP_SECONDS, _stopping())

    @property
    def hangs(self) -> bool:
        """Whether a worker runs on though the device was stopped."""
        return self._stopping and self._crew.is_alive

    @property
    def is_stuck(self) -> bool:
        """Whether each of its workers hangs. Called with the lock held."""
        return self._crew.is_stuck

    @property
    def fault(self) -> str:
        """What keeps the device from its work; empty if nothing does."""
        return self._crew.fault

    def look_after(self) -> None:
        """Replace workers that have died, and answer for what takes too long."""
        if self._stopping:
            return
        self._crew.replace()
        self._crew.give_up_late()
        with self._changed:
            if not self.is_stuck:
                return
            stuck = [lane for lane in self._lanes if lane.is_stuck]
            tasks = list(self._tasks)
            self._tasks.clear()
        for lane in stuck:
            lane.fail_waiting(stuck_error(lane.name))
        for task in tasks:
            task.fail(ModelUnavailable(f"{self.name} hangs"))

    def batch_tokens(self, backend: Backend, most: int) -> int:
        """Tokens of a model's batches: the most that is set, and no more than is fast."""
        # A model that brings its weights along for each batch wants large ones.
        return min(most, CPU_BATCH_TOKENS) if self._on_cpu and not backend.runs_alone else most

    def add(self, lane: Lane) -> None:
        """Make room for a model."""
        with self._changed:
            self._lanes.append(lane)

    def remove(self, lane: Lane) -> None:
        """Forget a model, which must have no work."""
        with self._changed:
            self._lanes.remove(lane)

    def wake(self) -> None:
        """Wake a worker, if one waits. Called with the lock held."""
        self._changed.notify()

    def run(self, function: Callable[[], Any]) -> Future[Any]:
        """Run a function on a worker, before any batch that waits."""
        task = Task(function)
        with self._changed:
            if not self._stopping:
                self._tasks.append(task)
                self._changed.notify()
                return task.future
        task.fail(_stopping())
        return task.future

    def _work(self, worker: Worker) -> None:
        try:
            self._serve(worker)
        except BaseException:  # its batches are answered for by whoever looks after the device
            logger.exception("%s dies", worker.thread.name)

    def _serve(self, worker: Worker) -> None:
        # Not at the top: the port answers before torch is read from disk.
        import torch

        torch.set_num_threads(self.threads_per_worker)
        pending: Finish | None = None
        while (work := self._next(worker, wait=pending is None)) is not None or pending is not None:
            finish: Finish | None = None
            try:
                finish = self._launch(worker, work) if isinstance(work, Taken) else work and work()
                if self._on_cpu:  # a batch is ended at once; none is ever pending before it
                    pending, finish = finish, None
                if pending is not None:
                    pending()
            except Exception:  # a worker outlives whatever a batch does
                logger.exception("a fault of the device's own")
            pending = finish

    def _next(self, worker: Worker, *, wait: bool) -> Taken | Callable[[], None] | None:
        """What to do next; ``None`` to stop, or where nothing is there and nobody should wait."""
        with self._changed:
            self.idle += 1
            try:
                while not (self._stopping or worker.is_dismissed):
                    if wait and self._tasks:  # a task finds no batch under way on this worker
                        return self._begin(worker, self._tasks.popleft())
                    again = self._look()
                    if (batch := self._next_batch()) is not None:
                        worker.batches.append(batch)
                        return batch
                    if not wait:
                        return None
                    self._changed.wait(self._background.next_look(time.perf_counter(), again))
            finally:
                self.idle -= 1
        return None

    def _begin(self, worker: Worker, task: Task) -> Callable[[], None]:
        """Note that a worker runs a task, for as long as it does. Called with the lock held."""

        def run() -> None:
            task.run()
            with self._changed:
                worker.task = None

        task.started = time.perf_counter()
        worker.task = task
        return run

    def _next_batch(self) -> Taken | None:
        now = time.perf_counter()
        for _ in range(len(self._lanes)):
            lane = self._lanes[0]
            self._lanes.rotate(-1)  # models take turns
            place = lane.places[self]
            is_pressing = bool(lane.queue.pressing)
            if not is_pressing and self._background.waits(now, self.idle):
                continue
            if len(lane.queue) and place.is_open:
                assert place.executor is not None
                self._background.note(now, pressing=is_pressing)
                pieces = lane.queue.take(self._budget(lane, place), lane.max_batch_requests)
                lane.note_work()
                place.copy.running += 1
                for other in self._lanes:
                    if len(other.queue):
                        other.wake()
                return Taken(lane, place, pieces, place.executor)
        return None

    def _budget(self, lane: Lane, place: Place) -> int:
        """Tokens of the next batch: what waits is shared out among the idle workers."""
        assert place.executor is not None
        most = place.executor.budget.tokens
        if place.backend.runs_alone:
            return most
        waiting = lane.queue.pressing
        if not waiting:
            waiting = lane.queue.tokens
            most = self._background.batch_tokens(time.perf_counter(), most)
        share = -(-waiting // max(1, lane.idle_workers))
        return min(max(share, MIN_CPU_SHARE if self._on_cpu else MIN_ACCELERATOR_SHARE), most)

    def _launch(self, worker: Worker, taken: Taken) -> Finish:
        finish = taken.executor.launch(taken.pieces)

        def finish_and_count() -> None:
            try:
                if finish is not None:
                    finish()
            finally:
                self._count(worker, taken)

        return finish_and_count

    def _count(self, worker: Worker, taken: Taken) -> None:
        now = time.perf_counter()
        lane, place = taken.lane, taken.place
        with self._changed:
            worker.batches.remove(taken)
            place.copy.running -= 1
            place.copy.used = now
            place.copy.scratch = taken.executor.backend.scratch_bytes
            lane.tokens_done += sum(piece.length for piece in taken.pieces)
            # Batches overlap: on a CPU beside each other, on a GPU one queued behind another.
            lane.seconds_busy += now - max(taken.started, place.last_finished)
            place.last_finished = now
        self._watcher.batch_done(taken.report(self.name))


def _stopping() -> ModelUnavailable:
    return ModelUnavailable("The server is stopping.", retry_after=5)
