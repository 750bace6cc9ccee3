# SPDX-License-Identifier: Apache-2.0
"""How instruments read what is there anyhow: when somebody asks, and once for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from opentelemetry.metrics import CallbackOptions, Observation

__all__ = ["Observer", "Point", "Recent", "observer"]

FRESH_SECONDS = 0.5
"""What was read stays good for so long: for all that one collection asks for."""

Value = TypeVar("Value")
Observer = Callable[[CallbackOptions], Iterable[Observation]]
Point = tuple[float, dict[str, str]]


class Recent(Generic[Value]):
    """Reads something, unless that was just done. For any thread.

    Args:
        read: Reads it.
    """

    def __init__(self, read: Callable[[], Value]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._kept: tuple[float, Value] | None = None

    def __call__(self) -> Value:
        """What was read, now or just before."""
        with self._lock:
            now = time.monotonic()
            if self._kept is None or now - self._kept[0] > FRESH_SECONDS:
                self._kept = now, self._read()
            return self._kept[1]


def observer(points: Callable[[], Iterable[Point]]) -> list[Observer]:
    """What an instrument calls, of something that gives values and their attributes."""
    return [lambda _: [Observation(value, attributes) for value, attributes in points()]]
