# SPDX-License-Identifier: Apache-2.0
"""The policy of residency, with a clock held by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.engine.copies import HOST, Copy, Tier
from appliance.engine.residency import Plan, Residency

TURN = 10.0


class Board:
    """A policy, a clock, and moves that take as long as the test likes."""

    def __init__(self, host: int = 0, **capacities: int) -> None:
        self.residency = Residency(TURN)
        self.residency.capacities = {**(capacities or {"cpu": 100}), HOST: host}
        self.now = 1000.0
        self.plan = Plan()

    def add(self, name: str, size: int | Mapping[str, int], **state: Any) -> Copy:
        """A copy that waits for nothing; ``ago``: since when it is there and unused."""
        sizes = {"cpu": size} if isinstance(size, int) else size
        since = self.now - state.pop("ago", 10 * TURN)
        state = {"came": since, "used": since, "return_seconds": 1.0, **state}
        copy = Copy(name, sizes, **state)
        self.residency.copies.append(copy)
        return copy

    def here(self, name: str, size: int | Mapping[str, int], **state: Any) -> Copy:
        return self.add(name, size, tier="device", **state)

    def ask(self, copy: Copy, ago: float = 0.0) -> None:
        copy.demand.since = self.now - ago

    def look(self, after: float = 0.0) -> list[str]:
        """What starts to move, once some time has passed."""
        self.now += after
        self.plan = self.residency.plan(self.now)
        return [f"{move.copy.name}: {move.origin}-{move.to}" for move in self.plan.moves]

    def end(self, copy: Copy, to: Tier | None = None) -> None:
        """End a copy's move, elsewhere than it was meant to if so told."""
        to = to or copy.moving_to
        assert copy.moving_to is not None
        if to == "device":
            self.residency.arrived(copy, self.now, None)
        else:
            assert to is not None
            self.residency.departed(copy, to)
