# SPDX-License-Identifier: Apache-2.0
"""When work of the lowest priority gives way to other work that may come.

A batch under way cannot be stopped, and whoever comes next waits for it to end. So while others
come, the background has small batches, and one worker of several stays free for them.
"""

from __future__ import annotations

import math

__all__ = ["Background"]

ASIDE_SECONDS = 2.0
"""Time after the last text above the background in which more of them are expected."""

ASIDE_SHARE = 1 / 6
"""Size of the background's batches meanwhile, of full ones."""

TURN_SECONDS = 0.25
"""It has no more than so long to wait for a worker, free or not: about the share of the device that
it has beside others (:attr:`~appliance.engine.batcher.FairQueue.SHARE`)."""


class Background:
    """The background's manners on one device. Times are by ``time.perf_counter``.

    Args:
        workers: Of the device.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._last_pressing = -math.inf
        self._last_turn = -math.inf

    def note(self, now: float, *, pressing: bool) -> None:
        """Note that a worker takes a batch.

        Args:
            now: The time.
            pressing: Whether it is one of those above the background.
        """
        if pressing:
            self._last_pressing = now
        else:
            self._last_turn = now

    def is_aside(self, now: float) -> bool:
        """Whether others have come lately."""
        return now - self._last_pressing < ASIDE_SECONDS

    def waits(self, now: float, idle: int) -> bool:
        """Whether it leaves a free worker to others.

        Args:
            now: The time.
            idle: Free workers.
        """
        is_last = self._workers > 1 and idle <= 1
        return is_last and self.is_aside(now) and now - self._last_turn < TURN_SECONDS

    def batch_tokens(self, now: float, most: int) -> int:
        """Tokens of its next batch at most.

        Args:
            now: The time.
            most: Of a full batch.
        """
        return int(most * ASIDE_SHARE) if self.is_aside(now) else most

    def next_look(self, now: float, again: float | None) -> float | None:
        """Seconds after which a worker looks for work unasked: what waited may go then.

        Args:
            now: The time.
            again: The same, for other reasons; ``None``: never.
        """
        if not self.is_aside(now):
            return again
        return TURN_SECONDS if again is None else min(again, TURN_SECONDS)
