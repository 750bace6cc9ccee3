# SPDX-License-Identifier: Apache-2.0
"""Points on a grid of time, of which the last so many are kept in arrays of a fixed size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.series.histogram import BUCKETS, Counts

__all__ = ["Point", "Points", "Ring"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Point:
    """What was seen within a span of time.

    Attributes:
        amounts: Each column's value times the seconds that it was seen for, of shape
            ``(columns,)``; for a rate, what was counted.
        seconds: For how long each column was seen, of shape ``(columns,)``.
        latencies: Of shape ``(BUCKETS,)``.
    """

    amounts: Floats
    seconds: Floats
    latencies: Counts


@dataclass(frozen=True, slots=True)
class Points:
    """Points one after another; those that nothing was seen in have 0 seconds.

    Attributes:
        numbers: Of shape ``(points,)``; point ``n`` begins at ``n * step`` seconds.
        amounts: Of shape ``(points, columns)``, as in :class:`Point`.
        seconds: Of shape ``(points, columns)``.
        latencies: Of shape ``(points, BUCKETS)``.
    """

    numbers: NDArray[np.int64]
    amounts: Floats
    seconds: Floats
    latencies: Counts

    @property
    def means(self) -> Floats:
        """Each column's mean over the time that it was seen; NaN where it was not."""
        seen = self.seconds > 0
        return np.divide(
            self.amounts, self.seconds, out=np.full_like(self.amounts, np.nan), where=seen
        )


class Ring:
    """The last points of one step.

    Amounts and seconds are kept, not means, so that what is added to a point that has something
    already makes the exact mean of both.

    Args:
        step: Seconds that a point spans.
        length: Points that are kept.
        columns: Values of a point.
    """

    def __init__(self, step: int, length: int, columns: int) -> None:
        self.step = step
        self.length = length
        self._numbers = np.full(length, -1, dtype=np.int64)
        self._amounts = np.zeros((length, columns))
        self._seconds = np.zeros((length, columns))
        self._latencies: Counts = np.zeros((length, BUCKETS), dtype=np.uint32)
        self._changed = np.zeros(length, dtype=np.bool_)

    @property
    def nbytes(self) -> int:
        """Memory that it takes for good."""
        arrays = (
            self._numbers,
            self._amounts,
            self._seconds,
            self._latencies,
            self._changed,
        )
        return sum(array.nbytes for array in arrays)

    def add(self, number: int, point: Point) -> None:
        """Add to a point, in the place of the one that is a whole ring older."""
        slot = number % self.length
        if self._numbers[slot] > number:
            return  # too old to be kept
        if self._numbers[slot] != number:
            self._numbers[slot] = number
            for array in (self._amounts, self._seconds, self._latencies):
                array[slot] = 0
        self._amounts[slot] += point.amounts
        self._seconds[slot] += point.seconds
        self._latencies[slot] += point.latencies
        self._changed[slot] = True

    def restore(self, number: int, point: Point) -> None:
        """Add to a point what needs not be written, as it has been."""
        slot = number % self.length
        is_changed = self._numbers[slot] == number and self._changed[slot]
        self.add(number, point)
        self._changed[slot] = is_changed

    def take_changed(self) -> list[int]:
        """Numbers of the points that were added to since this was last called, ascending."""
        numbers: list[int] = np.sort(self._numbers[self._changed]).tolist()
        self._changed[:] = False
        return numbers

    def give_back(self, number: int) -> None:
        """Have a point taken once more, if it is there still."""
        slot = number % self.length
        self._changed[slot] |= self._numbers[slot] == number

    def read(self, first: int, count: int) -> Points:
        """Copy the points from a number on, whether there are such or not."""
        numbers = np.arange(first, first + count)
        slots = numbers % self.length
        gone = self._numbers[slots] != numbers
        points = Points(numbers, self._amounts[slots], self._seconds[slots], self._latencies[slots])
        for array in (points.amounts, points.seconds, points.latencies):
            array[gone] = 0
        return points
