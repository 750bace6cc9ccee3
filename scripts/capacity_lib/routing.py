# SPDX-License-Identifier: Apache-2.0
"""Which machines serve a model."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from capacity_lib.fleet import Machine, Model, Requests

__all__ = ["anywhere", "at_home", "homes"]

Ints = npt.NDArray[np.int64]

MOST_SHARE = 0.5
"""Of a machine's time that one model's requests may take before it gets a second home."""


def homes(
    models: Sequence[Model], demand: Sequence[float], machine: Machine, machines: int
) -> list[list[int]]:
    """Give each model as many machines as its demand needs, the least loaded ones first.

    Args:
        models: The models.
        demand: Seconds of a device that each needs in a second.
        machine: What all machines are.
        machines: How many there are.

    Returns:
        The machines of each model.
    """
    # What is short counts: a machine is as full as the fuller of its time and its memory.
    load = [(0.0, number, 0.0, 0.0) for number in range(machines)]
    heapq.heapify(load)
    found: list[list[int]] = [[] for _ in models]
    for index in sorted(range(len(models)), key=lambda index: -demand[index]):
        copies = min(machines, max(1, int(np.ceil(demand[index] / MOST_SHARE))))
        taken = [heapq.heappop(load) for _ in range(copies)]
        for _, number, time, gib in taken:
            time, gib = time + demand[index] / copies, gib + models[index].gib
            memory = gib / (machine.weights_gib + machine.host_gib)
            heapq.heappush(load, (max(time, memory), number, time, gib))
            found[index].append(number)
    return found


def at_home(requests: Requests, places: Sequence[Sequence[int]], seed: int = 0) -> Ints:
    """The machine of each request: any of its model's homes."""
    chance = np.random.default_rng(seed).random(len(requests.times))
    return np.fromiter(
        (
            places[model][int(draw * len(places[model]))]
            for model, draw in zip(requests.models, chance, strict=True)
        ),
        dtype=np.int64,
        count=len(requests.times),
    )


def anywhere(requests: Requests, machines: int, seed: int = 0) -> Ints:
    """The machine of each request: any, as a balancer that knows nothing of models has it."""
    return np.random.default_rng(seed).integers(0, machines, len(requests.times))
