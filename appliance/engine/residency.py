# SPDX-License-Identifier: Apache-2.0
"""Which models' weights are on a device. Pure: no torch, no threads, no clock.

Each device has a budget of bytes, and each model a place behind the device to which its weights go
when another's need the room: RAM, disk, or nowhere, which means that it is loaded anew. Work for
models on the device is done without asking. Work for a model that is not there makes a *claim*.
Claims are served in the order in which they began, and room for the first is made like this:

* A model with no work gives way first; among several the one that has been idle longest in terms
  of what its return costs. It is spared for as long as its return takes after its last batch, since
  its next request is often on its way (the ski-rental rule: at most twice the cost of knowing).
* A model with work gives way once it has had its *turn*: a time that is set, or several times what
  moving it costs, if that is more, so that moving is never most of what a device does. It takes no
  further batch, and goes when the one under way has ended.

So a claim waits for the turns of the claims before it and for one turn of those on the device, and
no longer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from appliance.engine.copies import HOST, Copy, Demand, Move, Tier

__all__ = ["Plan", "Residency"]

TURN_PER_RETURN = 4.0
"""A turn lasts at least so many times as long as it takes to bring the model back."""

_NOBODY: Mapping[Copy, Tier] = {}


@dataclass(slots=True)
class Plan:
    """What is to be done now.

    Attributes:
        moves: Moves that start. Their copies are marked as moving.
        refused: Copies that cannot come, whatever gives way.
        look_again: When there may be more to do, though nothing else has happened by then.
        is_settled: Whether there is nothing more to do until work comes for a model that is away.
    """

    moves: list[Move] = field(default_factory=list)
    refused: list[Copy] = field(default_factory=list)
    look_again: float = math.inf
    is_settled: bool = True


class Residency:
    """The copies of all models, and the budgets that they share.

    Args:
        turn_seconds: Time that a model with work keeps its place at least, once it has come.

    Attributes:
        capacities: Bytes of each device; :data:`HOST` is what may be parked in RAM.
        copies: All that are known.
    """

    def __init__(self, turn_seconds: float) -> None:
        self.capacities: dict[str, int] = {}
        self.copies: list[Copy] = []
        self._turn_seconds = turn_seconds
        self._lacking: dict[str, int] = {}

    def used(self, device: str) -> int:
        """Bytes of a device that weights take, those that are on their way included."""
        if device == HOST:
            return sum(copy.parked for copy in self.copies)
        return sum(copy.taken(device) for copy in self.copies)

    def turn(self, copy: Copy) -> float:
        """Seconds that a copy with work keeps its place at least."""
        return max(self._turn_seconds, TURN_PER_RETURN * copy.return_seconds)

    def plan(self, now: float) -> Plan:
        """Decide which weights start to move.

        Args:
            now: In seconds, by the clock of ``came`` and ``used``.
        """
        plan = Plan()
        for copy in self.copies:
            copy.yields = False
            if copy.leaves_for is not None and copy.moving_to is None and not copy.is_busy:
                plan.moves += self._send_away(copy, copy.leaves_for, now)
        # Weights are measured when they have come, and may be more than was expected.
        self._make_room(None, now, plan)
        most = self.capacities.get(HOST, 0) + self._leaving_host()
        plan.moves += self._unload_parked(self.used(HOST) - most, now)
        held: set[str] = set()
        for copies in self._claims():
            if (claim := self._admit(copies, held, now, plan)) is not None:
                held.update(claim.sizes)  # room that others give up is for this one
        for copy in self._further():
            if held.isdisjoint(copy.sizes) and not self._shortage(copy):
                plan.moves.append(self._start(copy, "device", now))
        if held or any(copy.leaves_for is not None for copy in self.copies):
            plan.is_settled = False
        return plan

    def arrived(self, copy: Copy, now: float, seconds: float | None) -> None:
        """A move to the device has ended.

        Args:
            copy: What has come.
            now: As in :meth:`plan`.
            seconds: What its way from behind the device took; ``None`` if it came from elsewhere.
        """
        if seconds is not None:  # of a cold and a warm disk, the mean tells more than the last
            copy.return_seconds = (copy.return_seconds + seconds) / 2
        copy.tier, copy.moving_to = "device", None
        copy.came = copy.used = now

    def departed(self, copy: Copy, tier: Tier) -> None:
        """A move away from the device has ended there, or one to the device has come to nothing."""
        copy.tier, copy.moving_to = tier, None
        if tier == "source":
            copy.parked = 0
        if tier == "source" or copy.leaves_for != "source":  # else it has a way to go
            copy.leaves_for = None

    def overflowed(self, copy: Copy) -> None:
        """A device had no room for a copy though its budget had; called while it is marked moving.

        The budget is corrected, so that something else has to give way before the next try. When
        nothing is left to give way, the claim is refused, and the next may have all of it again.
        """
        for device in copy.sizes:
            lacking = self.capacities[device] - self.used(device) + 1
            self._lacking[device] = max(lacking, self._lacking.get(device, 0))

    def _further(self) -> Iterator[Copy]:
        """Copies of models that are served by another; they come where there is room anyhow."""
        here = {c.demand for c in self.copies if c.is_here and c.leaves_for is None}
        for copy in self.copies:
            if copy.may_come and copy.demand in here:
                yield copy

    def _claims(self) -> list[list[Copy]]:
        """The copies of each model that work waits for, the model first that has waited longest."""
        served = {c.demand for c in self.copies if c.is_here or c.moving_to == "device"}
        waiting: dict[Demand, list[Copy]] = {}
        for copy in self.copies:
            has_work = copy.demand.since is not None
            if copy.may_come and has_work and copy.demand not in served:
                waiting.setdefault(copy.demand, []).append(copy)
        return sorted(waiting.values(), key=lambda copies: copies[0].demand.since or 0.0)

    def _admit(self, copies: list[Copy], held: set[str], now: float, plan: Plan) -> Copy | None:
        """Let one of a model's copies in if there is room.

        Returns:
            The copy for which room is being made; ``None`` if there is none.
        """
        unheld = [copy for copy in copies if held.isdisjoint(copy.sizes)]
        for copy in unheld:
            if not self._shortage(copy):
                plan.moves.append(self._start(copy, "device", now))
                return None
        if unheld and not any(self._ever_fits(copy) for copy in copies):
            plan.refused.append(copies[0])
            for device in copies[0].sizes:
                self._lacking.pop(device, None)
            return None
        claim = next((copy for copy in unheld if self._ever_fits(copy)), None)
        if claim is not None:
            self._make_room(claim, now, plan)
        return claim

    def _make_room(self, claim: Copy | None, now: float, plan: Plan) -> None:
        """Have others give way to a claim, or to what is more than the budget already."""
        if claim is None and not self._shortage(None):
            return
        plan.is_settled = False
        victims = self._choose(claim, now)
        waits = max((self._gives_way(victim) for victim in victims), default=now)
        if waits > now:
            plan.look_again = min(plan.look_again, waits)
            return
        for victim, tier in victims.items():
            if victim.running:
                victim.yields = True
            elif victim.moving_to is None:  # else it has gone already, to make room in RAM
                plan.moves += self._send_away(victim, tier, now)

    def _shortage(self, claim: Copy | None, gone: Mapping[Copy, Tier] = _NOBODY) -> dict[str, int]:
        """Bytes that are lacking, by device.

        Args:
            claim: What is to come; ``None``: nothing, it is about what is there.
            gone: What will have given way by then, and to where.
        """
        lacks = {}
        for device in self.capacities if claim is None else claim.sizes:
            beside = [c for c in self.copies if c is not claim and c.taken(device, gone.get(c))]
            need = sum(copy.taken(device, gone.get(copy)) for copy in beside)
            if claim is not None:
                need += claim.sizes[device] + _scratch(claim, beside)
            if need > self._capacity(device):
                lacks[device] = need - self._capacity(device)
        return lacks

    def _capacity(self, device: str) -> int:
        return self.capacities[device] - self._lacking.get(device, 0)

    def _ever_fits(self, claim: Copy) -> bool:
        def need(device: str) -> int:
            pinned = [c for c in self.copies if c.pinned and c is not claim and device in c.sizes]
            return sum(c.sizes[device] for c in (claim, *pinned)) + _scratch(claim, pinned)

        return all(need(device) <= self._capacity(device) for device in claim.sizes)

    def _choose(self, claim: Copy | None, now: float) -> dict[Copy, Tier]:
        """What gives way, and to where: those that may first, and no more than it takes."""

        def order(copy: Copy) -> tuple[float, bool, float]:
            waits = max(0.0, self._gives_way(copy) - now)
            if copy.tier != "device":  # the little that it kept goes last
                return math.inf, copy.is_busy, copy.used
            if copy.is_busy:
                return waits, True, copy.came
            return waits, False, (copy.used - now) / max(copy.return_seconds, 1e-6)

        gone = {c: c.moving_to for c in self.copies if c.moving_to not in (None, "device")}
        short, chosen = self._shortage(claim, gone), dict[Copy, Tier]()
        still = [c for c in self.copies if c.moving_to is None and not (c.pinned or c is claim)]
        for copy in sorted((c for c in still if any(map(c.taken, short))), key=order):
            if short and (to := copy.way_out(short)) is not None:
                chosen[copy] = to
                short = self._shortage(claim, {**gone, **chosen})
        if short:
            coming = (c for c in self.copies if c.moving_to == "device")
            if claim is not None and any(not c.sizes.keys().isdisjoint(short) for c in coming):
                return {}  # it takes one of them too, and then perhaps none of these
            return chosen
        for copy in list(reversed(chosen))[1:]:
            others = {c: to for c, to in chosen.items() if c is not copy}
            if not self._shortage(claim, {**gone, **others}):
                chosen = others
        return chosen

    def _gives_way(self, copy: Copy) -> float:
        """When a copy may be made to give way."""
        if copy.tier != "device":
            return -math.inf
        had_its_turn = copy.came + self.turn(copy)
        return had_its_turn if copy.is_busy else min(had_its_turn, copy.used + copy.return_seconds)

    def _send_away(self, copy: Copy, to: Tier, now: float) -> list[Move]:
        """Start a move away, after those that have to make room for it in RAM."""
        if copy.tier == to or (copy.tier != "device" and to != "source"):
            copy.leaves_for = None
            return []
        if to == HOST and not copy.parked:
            free = self.capacities.get(HOST, 0) - self.used(HOST)
            lacks = copy.total_bytes - free - self._leaving_host()
            if lacks > sum(c.parked for c in self._parked()):
                return [self._start(copy, "source", now)]
            if copy.total_bytes > free:  # its own move starts once others have gone
                return self._unload_parked(lacks, now)
            copy.parked = copy.total_bytes
        return [self._start(copy, to, now)]

    def _leaving_host(self) -> int:
        leaving = (c for c in self.copies if c.tier == HOST and c.moving_to == "source")
        return sum(copy.parked for copy in leaving)

    def _parked(self) -> list[Copy]:
        """Copies in RAM that may be unloaded, the longest unused first."""
        idle = [c for c in self.copies if c.tier == HOST and not (c.moving_to or c.is_busy)]
        return sorted(idle, key=lambda copy: copy.used)

    def _unload_parked(self, lacks: int, now: float) -> list[Move]:
        moves = []
        for copy in self._parked() if lacks > 0 else ():
            if lacks > 0:
                lacks -= copy.parked
                moves.append(self._start(copy, "source", now))
        return moves

    @staticmethod
    def _start(copy: Copy, to: Tier, now: float) -> Move:
        copy.moving_to = to
        if copy.tier == "device" and copy.demand.since is not None:
            copy.demand.since = now  # its turn has been; what is left waits for the next
        return Move(copy, copy.tier, to)


def _scratch(claim: Copy, beside: Iterable[Copy]) -> int:
    """Bytes for the batches of copies that share a device, of which one computes at a time.

    A copy that is alone has what its weights leave it: its batches are made to fit.
    """
    others = [copy.scratch for copy in beside]
    return max(claim.scratch, *others) if others else 0
