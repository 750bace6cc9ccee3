# SPDX-License-Identifier: Apache-2.0
"""The copies of models whose weights come and go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["HOST", "Copy", "Demand", "Move", "Tier"]

Tier = Literal["device", "host", "disk", "source"]
"""Where weights are. ``source``: nowhere but in the model's own files."""

HOST = "host"
"""Name of the host's RAM in the budgets, for weights that are parked there."""


@dataclass(slots=True, eq=False)
class Demand:
    """The work that waits for a model; one for all of its copies.

    Attributes:
        since: When it began to wait for a copy on a device; ``None`` if there is no work.
    """

    since: float | None = None


@dataclass(slots=True, eq=False)
class Copy:
    """One copy of a model, wherever its weights are.

    Attributes:
        name: The model's name.
        sizes: Bytes that its weights take of each device when they are there.
        demand: The work that waits for the model.
        behind: Where it goes when it gives way.
        pinned: Whether it never gives way.
        scratch: Bytes that its batches take of a device beside its weights.
        stays: Bytes of each device that it keeps while it is parked.
        parked: Bytes of RAM that it holds for its way back, on the device too.
        on_disk: Bytes of disk that it holds likewise.
        tier: Where its weights are, or were before the move that is under way.
        moving_to: Where they are on their way to.
        leaves_for: Where it was told to go as soon as it has no work.
        running: Batches under way.
        yields: Whether it takes no further batch, as it has to give way.
        came: When it came to the device.
        used: When its last batch ended, or it came.
        return_seconds: What its way back to the device takes; an estimate before the first.
        given_up: Whether it failed, and is not tried again as others of its model serve.
    """

    name: str
    sizes: Mapping[str, int]
    demand: Demand = field(default_factory=Demand)
    behind: Tier = "source"
    pinned: bool = False
    scratch: int = 0
    stays: Mapping[str, int] = field(default_factory=dict)
    parked: int = 0
    on_disk: int = 0
    tier: Tier = "source"
    moving_to: Tier | None = None
    leaves_for: Tier | None = None
    running: int = 0
    yields: bool = False
    came: float = 0.0
    used: float = 0.0
    return_seconds: float = 0.0
    given_up: bool = False

    @property
    def is_here(self) -> bool:
        """Whether its weights are on the device, and stay there for now."""
        return self.tier == "device" and self.moving_to is None

    @property
    def is_open(self) -> bool:
        """Whether it may take a batch."""
        return self.is_here and not self.yields

    @property
    def may_come(self) -> bool:
        """Whether its weights could start to move to the device."""
        return self.tier != "device" and self.moving_to is None and not self.given_up

    @property
    def is_busy(self) -> bool:
        """Whether it has work, under way or waiting."""
        return self.running > 0 or self.demand.since is not None

    @property
    def is_released(self) -> bool:
        """Whether it takes no memory anywhere."""
        return self.tier == "source" and self.moving_to is None

    @property
    def total_bytes(self) -> int:
        """Bytes of its weights."""
        return sum(self.sizes.values())

    def taken(self, device: str, after: Tier | None = None) -> int:
        """Bytes that it takes of a device.

        Args:
            device: The device.
            after: Once it is there. Unset: now, with the room for its way counted.
        """
        here: Tier = "device" if "device" in (self.tier, self.moving_to) else self.tier
        tier = after or here
        if tier == "device":
            return self.sizes.get(device, 0)
        return 0 if tier == "source" else self.stays.get(device, 0)

    def way_out(self, devices: Iterable[str]) -> Tier | None:
        """Where it has to go to take less of some of these devices; ``None`` if it takes none."""
        ways: tuple[Tier, ...] = (self.behind, "source") if self.tier == "device" else ("source",)
        for to in ways:
            if any(self.taken(device) > self.taken(device, to) for device in devices):
                return to
        return None


@dataclass(frozen=True, slots=True)
class Move:
    """Weights that start to move now."""

    copy: Copy
    origin: Tier
    to: Tier
