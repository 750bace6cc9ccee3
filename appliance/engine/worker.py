# SPDX-License-Identifier: Apache-2.0
"""A thread that computes, and the batches that it has under way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from appliance.engine.batcher import Piece
from appliance.engine.execution import Executor
from appliance.engine.lane import Lane, Place

__all__ = ["Taken", "Worker"]


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

    def fail(self, error: Exception) -> None:
        """Answer its jobs, unless they have been."""
        self.lane.fail_jobs({piece.job: None for piece in self.pieces}, error)


class Worker:
    """One of a device's threads.

    Args:
        name: The thread's name.
        work: What it does, given the worker.

    Attributes:
        thread: The thread.
        batches: What it has under way; guarded by the device's lock.
    """

    def __init__(self, name: str, work: Callable[[Worker], None]) -> None:
        self.batches: list[Taken] = []
        self.thread = threading.Thread(target=work, args=(self,), name=name, daemon=True)

    @property
    def has_died(self) -> bool:
        """Whether it was started and does not run any more."""
        return self.thread.ident is not None and not self.thread.is_alive()
