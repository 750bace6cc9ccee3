# SPDX-License-Identifier: Apache-2.0
"""The threads that compute.

A device pulls its work: whenever a worker is free it takes the next batch under the device's lock,
so that batches form while the device is busy and a text that arrives alone leaves at once. An
accelerator has one worker. A CPU has several, each with its share of the cores: small batches stay
in a core's caches, and a worker that loses its core to another process holds up no other.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from appliance.engine.batcher import FairQueue, Piece
from appliance.engine.types import Backend, Batch, Job
from appliance.errors import InternalError, ModelUnavailable

__all__ = ["Device", "Lane", "available_cores"]

logger = logging.getLogger(__name__)

CPU_BATCH_TOKENS = 768
"""Tokens of a batch that a core's caches still hold. Measured with all-MiniLM-L6-v2 on two cores:
512 to 1024 are within 3 % of each other, 256 and 384 some 5 % slower."""

MAX_CPU_WORKERS = 8
MIN_SHARE_TOKENS = 64
"""Fewer tokens than this are not worth splitting between idle workers."""


@dataclass(slots=True, eq=False)
class Lane:
    """One model's place on a device: its backend, and the texts that wait for it."""

    name: str
    device: Device
    backend: Backend
    max_batch_tokens: int
    max_batch_requests: int | None
    queue: FairQueue = field(init=False)
    tokens_done: int = 0
    seconds_busy: float = 0.0

    def __post_init__(self) -> None:
        self.queue = FairQueue(quantum=self.max_batch_tokens)

    @property
    def seconds_to_drain(self) -> float:
        """Time that the waiting texts will take, at the pace so far; 1 before the first batch."""
        if not self.tokens_done:
            return 1.0
        return self.queue.tokens * self.seconds_busy / self.tokens_done / self.device.workers


def available_cores() -> int:
    """Cores that this process may use, a container's CPU quota counted."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    try:  # cgroup v2: "max 100000" or "150000 100000"
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return cores


class Device:
    """A device, its workers and its lanes.

    Args:
        name: ``cpu``, or an accelerator's name such as ``cuda:0``.
        cpu_workers: Batches at once on a CPU. Unset: one for each core,
            :data:`MAX_CPU_WORKERS` at most.

    Attributes:
        workers: Batches at once.
        max_batch_tokens: Tokens of a batch beyond which it gets slower, if there is such a size.
    """

    def __init__(self, name: str = "cpu", cpu_workers: int | None = None) -> None:
        cores = available_cores()
        on_cpu = name == "cpu"
        self.workers = (cpu_workers or min(cores, MAX_CPU_WORKERS)) if on_cpu else 1
        self.max_batch_tokens = CPU_BATCH_TOKENS if on_cpu else None
        self._threads_per_worker = max(1, cores // self.workers)
        self._lanes: deque[Lane] = deque()
        self._tasks: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._idle = 0
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
                _fail(job, _stopping())

    @property
    def alive(self) -> bool:
        """Whether every worker runs."""
        return all(thread.is_alive() for thread in self._threads)

    def add(self, lane: Lane) -> None:
        """Make room for a model."""
        with self._changed:
            self._lanes.append(lane)

    def submit(self, lane: Lane, job: Job) -> None:
        """Let a job wait for its model. It must have at least one text."""
        with self._changed:
            if not self._stopping:
                lane.queue.add(job)
                self._changed.notify()
                return
        _fail(job, _stopping())

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
        while (task := self._next()) is not None:
            try:
                task()
            except Exception:  # a worker outlives whatever a batch does
                logger.exception("a fault of the device's own")

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            self._idle += 1
            try:
                while not self._stopping:
                    if self._tasks:
                        return self._tasks.popleft()
                    if (batch := self._next_batch()) is not None:
                        return batch
                    self._changed.wait()
            finally:
                self._idle -= 1
        return None

    def _next_batch(self) -> Callable[[], None] | None:
        for _ in range(len(self._lanes)):
            lane = self._lanes[0]
            self._lanes.rotate(-1)  # models take turns
            if len(lane.queue):
                pieces = lane.queue.take(self._budget(lane), lane.max_batch_requests)
                if self._idle > 1 and any(len(other.queue) for other in self._lanes):
                    self._changed.notify()
                return lambda: _run(lane, pieces)
        return None

    def _budget(self, lane: Lane) -> int:
        """Tokens of the next batch: what waits is shared out among the idle workers."""
        share = -(-lane.queue.tokens // self._idle)
        return min(max(share, MIN_SHARE_TOKENS), lane.max_batch_tokens)


def _run(lane: Lane, pieces: list[Piece]) -> None:
    """Embed texts and hand the vectors to their jobs. Raises nothing."""
    pieces = [piece for piece in pieces if not piece.job.cancelled and piece.job.error is None]
    if not pieces:
        return
    pieces.sort(key=lambda piece: piece.length)
    started = time.perf_counter()
    for piece in pieces:
        if piece.job.started is None:
            piece.job.started = started
    _embed(lane, pieces)
    lane.tokens_done += sum(piece.length for piece in pieces)
    lane.seconds_busy += time.perf_counter() - started


def _embed(lane: Lane, pieces: Sequence[Piece]) -> None:
    try:
        vectors = lane.backend.forward(
            Batch.pack(
                [piece.job.texts[piece.index] for piece in pieces],
                [piece.job.unpooled for piece in pieces],
            )
        )
    except Exception as error:
        if len(pieces) > 1:  # one bad text fails alone, and half a batch needs half the memory
            middle = len(pieces) // 2
            _embed(lane, pieces[:middle])
            _embed(lane, pieces[middle:])
            return
        logger.exception("a text of %d tokens failed in %s", pieces[0].length, lane.name)
        _fail(pieces[0].job, InternalError(f"the model failed ({type(error).__name__})"))
        return
    for piece, vector in zip(pieces, vectors, strict=True):
        if np.isfinite(vector).all():
            _deliver(piece, vector)
        else:
            logger.error("a text of %d tokens gave no finite vector", piece.length)
            _fail(piece.job, InternalError("the model gave a vector with NaN or infinity"))


# Workers may finish parts of one job at the same time.
_delivery = threading.Lock()


def _deliver(piece: Piece, vector: np.typing.NDArray[np.float32]) -> None:
    job = piece.job
    with _delivery:
        if job.vectors is None:
            job.vectors = np.empty((len(job.texts), len(vector)), dtype=np.float32)
        job.vectors[piece.index] = vector
        job.remaining -= 1
        complete = job.remaining == 0 and job.error is None
    if complete:
        _finish(job)


def _fail(job: Job, error: BaseException) -> None:
    with _delivery:
        first = job.error is None
        job.error = job.error or error
    if first:
        _finish(job)


def _finish(job: Job) -> None:
    job.finished = time.perf_counter()
    try:
        job.done(job)
    except Exception:  # whoever waits for this job; others wait for the rest of the batch
        logger.exception("an answer could not be handed over")


def _stopping() -> ModelUnavailable:
    return ModelUnavailable("The server is stopping.", retry_after=5)
