# SPDX-License-Identifier: Apache-2.0
"""Latencies counted in buckets that grow by a constant factor.

Counts of two spans of time add up to those of both, so that percentiles of a longer span come from
its own counts: an average of percentiles would be none. The scheme is that of DDSketch (Masson,
Rim and Lee, VLDB 2019): bucket ``i`` holds what lies in ``(LEAST * GAMMA**(i - 1), LEAST *
GAMMA**i]``, and its middle is told, which is off by ``ACCURACY`` of the value at most.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["ACCURACY", "BUCKETS", "GREATEST", "LEAST", "Counts", "bucket_of", "percentiles"]

Counts: TypeAlias = NDArray[np.uint32]

ACCURACY = 0.025
"""Greatest relative error of a percentile."""

LEAST = 0.1
GREATEST = 600_000.0
"""Milliseconds; what lies beyond is counted as if it were this."""

GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
BUCKETS = math.ceil(math.log(GREATEST / LEAST, GAMMA)) + 1

_MIDDLES = 2 * LEAST * GAMMA ** np.arange(BUCKETS, dtype=np.float64) / (GAMMA + 1)


def bucket_of(milliseconds: float) -> int:
    """The bucket of a latency."""
    if not milliseconds > LEAST:
        return 0
    return min(math.ceil(math.log(min(milliseconds, GREATEST) / LEAST, GAMMA)), BUCKETS - 1)


def percentiles(counts: Counts, shares: tuple[float, ...]) -> list[NDArray[np.float64]]:
    """Percentiles by nearest rank.

    Args:
        counts: Of each point of time, of shape ``(points, BUCKETS)``.
        shares: Such as 0.95.

    Returns:
        For each share, milliseconds of shape ``(points,)``; NaN where nothing was counted.
    """
    below = np.cumsum(counts, axis=1, dtype=np.int64)
    total = below[:, -1:]
    found = []
    for share in shares:
        rank = np.maximum(np.ceil(share * total), 1)
        middles = _MIDDLES[np.argmax(below >= rank, axis=1)]
        found.append(np.where(total[:, 0] > 0, middles, np.nan))
    return found
