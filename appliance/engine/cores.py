# SPDX-License-Identifier: Apache-2.0
"""The processor's cores, and how they are shared out."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["MAX_CPU_WORKERS", "available_cores", "limit_cores", "share_cores"]

MAX_CPU_WORKERS = 8
"""Batches at once on a CPU of many cores: more would leave a lone text too few cores to run on."""

_limit: int | None = None


def limit_cores(cores: int | None) -> None:
    """Use no more cores than these, of a machine on which others have theirs. Unset: all."""
    global _limit
    _limit = cores


def available_cores() -> int:
    """Cores that this process may use, a container's CPU quota counted."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    try:  # cgroup v2: "max 100000" or "150000 100000"
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return cores if _limit is None else min(cores, _limit)


def share_cores(workers: int | None = None) -> tuple[int, int]:
    """Share the cores out among workers.

    Args:
        workers: How many there are to be. Unset: one for each core, or as many as there are cores
            for, where each needs several so that there are no more than :data:`MAX_CPU_WORKERS`.

    Returns:
        Workers, and threads of each.
    """
    cores = available_cores()
    if workers is not None:
        return workers, max(1, cores // workers)
    threads = -(-cores // MAX_CPU_WORKERS)
    return cores // threads, threads
