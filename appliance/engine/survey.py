# SPDX-License-Identifier: Apache-2.0
"""What lies where: a picture of one moment, for those who watch. It moves and wakes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from appliance.engine.backend import Room
from appliance.engine.copies import Tier
from appliance.engine.lane import Lane
from appliance.engine.moving import Moved, Mover
from appliance.engine.residency import Residency

__all__ = ["Holding", "Survey", "take_survey"]

_NEAREST: tuple[Tier, ...] = ("device", "host", "disk", "source")


@dataclass(frozen=True, slots=True)
class Holding:
    """What one model has.

    Attributes:
        tier: Where its weights are; of several copies, of the one that is nearest to work.
        devices: Bytes that it takes of each device.
        parked: Bytes of RAM for weights that were put there, or will be again.
        on_disk: Bytes of disk likewise.
        waiting_requests: Requests of which texts wait.
        waiting_tokens: Tokens of these texts.
        waiting_texts: How many they are.
    """

    tier: Tier = "source"
    devices: Mapping[str, int] = field(default_factory=dict)
    parked: int = 0
    on_disk: int = 0
    waiting_requests: int = 0
    waiting_tokens: int = 0
    waiting_texts: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """What all models have.

    Attributes:
        holdings: By lane.
        rooms: Memory by device; :data:`~appliance.engine.copies.HOST` is where weights are parked.
        on_disk: Bytes of disk that parked weights take.
        moved: What has moved so far, by origin and destination.
        swaps: How often weights have moved, by model.
    """

    holdings: Mapping[Lane, Holding]
    rooms: Mapping[str, Room]
    on_disk: int
    moved: Mapping[tuple[Tier, Tier], Moved]
    swaps: Mapping[str, int]


def take_survey(residency: Residency, mover: Mover, lanes: Iterable[Lane]) -> Survey:
    """Look at everything at once. Called with the devices' lock held.

    Args:
        residency: Knows the copies and the budgets.
        mover: Knows what has moved.
        lanes: The models of interest.
    """
    return Survey(
        {lane: _holding(lane) for lane in lanes},
        {
            name: Room(capacity, residency.used(name))
            for name, capacity in residency.capacities.items()
        },
        sum(copy.on_disk for copy in residency.copies),
        {way: replace(moved) for way, moved in mover.moved.items()},
        Counter(mover.swaps),
    )


def _holding(lane: Lane) -> Holding:
    copies = lane.copies
    devices: Counter[str] = Counter()
    for copy in copies:
        devices.update({device: copy.taken(device) for device in copy.sizes})
    return Holding(
        min((copy.tier for copy in copies), key=_NEAREST.index, default="source"),
        devices,
        sum(copy.parked for copy in copies),
        sum(copy.on_disk for copy in copies),
        len(lane.queue),
        lane.queue.tokens,
        lane.queue.texts,
    )
