# SPDX-License-Identifier: Apache-2.0
"""How much memory there is for weights."""

from __future__ import annotations

from pathlib import Path

import psutil

__all__ = ["available_memory", "device_capacities", "host_capacity"]

MOST_OF_MEMORY = 0.8
"""Share of the free RAM that weights may take where no limit is set; texts and vectors need some,
and so does the page cache."""

MOST_OF_A_DEVICE = 0.95
"""Share of an accelerator's free memory for weights and batches; kernels need the rest."""

GIB = 2**30

CONTROL_GROUP = Path("/sys/fs/cgroup")
"""Where a container finds its limits (cgroup v2)."""


def available_memory() -> int:
    """Bytes of RAM that this process may still take, a container's limit counted."""
    available = int(psutil.virtual_memory().available)
    group = CONTROL_GROUP
    try:  # cgroup v2; "max" where there is no limit
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        statistics = (group / "memory.stat").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return available
    # Pages of files count as used, and are given up as soon as something else needs them.
    cached = int(statistics[statistics.index("inactive_file") + 1])
    return min(available, max(0, limit - used + cached))


def device_capacities(limit_gib: float | None) -> dict[str, int]:
    """Bytes that models may take of each device of this machine.

    Args:
        limit_gib: The setting ``max_cuda_memory_gib``.

    Returns:
        By device, the accelerators first. Where there are any, the limit is theirs; else it is
        the CPU's.
    """
    # Not at the top: the port answers before torch is read from disk.
    import torch

    capacities = {}
    limit = None if limit_gib is None else int(limit_gib * GIB)
    for number in range(torch.cuda.device_count()):
        free, _ = torch.cuda.mem_get_info(number)
        most = int(MOST_OF_A_DEVICE * free)
        capacities[f"cuda:{number}"] = most if limit is None else min(limit, most)
    if limit is None or capacities:
        limit = int(MOST_OF_MEMORY * available_memory())
    return {**capacities, "cpu": limit}


def host_capacity(limit_gib: float | None, *, offload: bool) -> int:
    """Bytes of RAM in which an accelerator's models may be parked.

    Args:
        limit_gib: The setting ``max_cuda_memory_gib``; what it has above the hardware's memory is
            taken from RAM.
        offload: The setting ``automatic_cpu_offload``: whether any number of models may be parked.
    """
    import torch

    count = torch.cuda.device_count()
    if not count:
        return 0
    most = int(MOST_OF_MEMORY * available_memory())
    if offload:
        return most
    hardware = sum(torch.cuda.mem_get_info(number)[1] for number in range(count))
    surplus = 0 if limit_gib is None else int(limit_gib * GIB) * count - hardware
    return max(0, min(surplus, most))
