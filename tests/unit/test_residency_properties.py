# SPDX-License-Identifier: Apache-2.0
"""Any sequence of events keeps the budgets and leaves no work waiting, by a simulated clock."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appliance.engine.copies import HOST, Copy, Demand, Move, Tier
from appliance.engine.residency import TURN_PER_RETURN, Residency

CAPACITIES = {"a": 100, "b": 60}
TURN = 4.0
MOST_BATCH = 3.0
MOST_MOVE = 2.0
WORKERS = 2
SURPRISE = 20
"""Bytes by which weights may turn out larger."""

# Quarters of seconds add up without rounding.
batch_times = st.integers(1, int(4 * MOST_BATCH)).map(lambda quarters: quarters / 4)
move_times = st.integers(1, int(4 * MOST_MOVE)).map(lambda quarters: quarters / 4)
bytes_ = st.integers(1, 70)


@st.composite
def copy_sizes(draw: st.DrawFn) -> dict[str, int]:
    """Of one device, or spread over both."""
    devices = draw(st.sampled_from([("a",), ("a",), ("b",), ("a", "b")]))
    return {device: draw(bytes_) for device in devices}


@dataclass(eq=False)
class Model:
    demand: Demand
    copies: list[Copy]
    waiting: int = 0
    """Batches of work."""


@dataclass(frozen=True)
class Claim:
    since: float
    noted: float
    rounds: int
    """Claims before it, and itself, and what has failed so far."""


@dataclass(order=True)
class Event:
    time: float
    number: int
    copy: Copy = field(compare=False)
    move: Move | None = field(compare=False, default=None)
    goes_wrong: str = field(compare=False, default="")


class World:
    """Devices with workers, and moves that take time and fail; all of it simulated."""

    def __init__(self, host: int) -> None:
        self.residency = Residency(TURN)
        self.residency.capacities = {**CAPACITIES, HOST: host}
        self.models: list[Model] = []
        self.actual: dict[Copy, dict[str, int]] = {}
        self.now = 0.0
        self.look_again = math.inf
        self.failures = 0
        self._events: list[Event] = []
        self._numbers = iter(range(10**9))
        self._claims: dict[Demand, Claim] = {}
        self.choose_move_time = lambda: MOST_MOVE
        self.choose_fault = lambda move: ""

    def note_work(self, model: Model) -> None:
        if not model.waiting:
            model.demand.since = None
        elif model.demand.since is None:
            model.demand.since = self.now

    def look(self) -> None:
        self._note_claims()
        self._check_waits()
        plan = self.residency.plan(self.now)
        self.look_again = plan.look_again
        assert plan.look_again > self.now
        for move in plan.moves:
            assert not move.copy.running, "weights move in use"
            assert all(event.copy is not move.copy for event in self._events), "two moves at once"
            self._push(self.choose_move_time(), move.copy, move, self.choose_fault(move))
            if move.to == "device":
                for device in move.copy.sizes:
                    assert self.residency.used(device) <= CAPACITIES[device], "over the budget"
        for copy in plan.refused:
            self._answer_all(copy)
        if plan.refused:
            self.look()

    def start_batch(self, copy: Copy, seconds: float) -> None:
        model = self.model(copy)
        if copy.is_open and model.waiting and copy.running < WORKERS:
            model.waiting -= 1
            self.note_work(model)
            copy.running += 1
            self._push(seconds, copy)

    def advance(self, until: float) -> None:
        """Let time pass; whatever ends, and whenever it is time to look again."""
        while (time := self.next_time) <= until:
            self.now = time
            if self._events and self._events[0].time <= time:
                self._end(heapq.heappop(self._events))
            self.look()
        self.now = until

    def advance_to_a_time_of_its_own(self) -> None:
        """To one at which no claim began, so that none has to be told from another of its age."""
        while any(model.demand.since == self.now for model in self.models):
            self.advance(self.now + 1 / 64)

    @property
    def next_time(self) -> float:
        return min(self.look_again, self._events[0].time if self._events else math.inf)

    def run_dry(self) -> None:
        """Run on without new work or faults, until nothing is left to happen."""
        self.choose_move_time = lambda: MOST_MOVE
        self.choose_fault = lambda move: ""
        for _ in range(10_000):
            for model in self.models:
                for copy in model.copies:
                    while copy.is_open and model.waiting and copy.running < WORKERS:
                        self.start_batch(copy, MOST_BATCH)
            self.look()
            if self.next_time == math.inf:
                return
            self.advance(self.next_time)
        raise AssertionError("it never comes to rest")

    def _push(self, seconds: float, copy: Copy, move: Move | None = None, fault: str = "") -> None:
        event = Event(self.now + seconds, next(self._numbers), copy, move, fault)
        heapq.heappush(self._events, event)

    def _end(self, event: Event) -> None:
        copy = event.copy
        if event.move is None:
            copy.running -= 1
            copy.used = self.now
            return
        move = event.move
        assert copy.moving_to == move.to
        if event.goes_wrong:
            self.failures += 1
        if event.goes_wrong == "no room":
            self.residency.overflowed(copy)
            self.residency.departed(copy, move.origin)
        elif event.goes_wrong:  # weights are lost, cannot be put away, or cannot be loaded
            self.residency.departed(copy, "source")
            if event.goes_wrong == "broken":
                self._answer_all(copy)
        elif move.to == "device":
            if move.origin == "source":
                copy.sizes = self.actual[copy]
            self.residency.arrived(copy, self.now, MOST_MOVE)
            self.note_work(self.model(copy))
        else:
            self.residency.departed(copy, move.to)
            if move.to == HOST:
                copy.parked = copy.total_bytes

    def _answer_all(self, copy: Copy) -> None:
        model = self.model(copy)
        model.waiting = 0
        self.note_work(model)

    def model(self, copy: Copy) -> Model:
        return next(model for model in self.models if model.demand is copy.demand)

    def _note_claims(self) -> None:
        waiting: dict[Demand, float] = {}
        for model in self.models:
            served = any(c.is_here or c.moving_to == "device" for c in model.copies)
            if model.demand.since is not None and not served:
                waiting[model.demand] = model.demand.since
        for demand in [*self._claims]:
            if waiting.get(demand) != self._claims[demand].since:
                del self._claims[demand]
        for demand, since in waiting.items():
            if demand not in self._claims:
                before = sum(1 for other in waiting.values() if other < since)
                # Of those that began at the same time any may be the first.
                before += sum(1 for other in waiting.values() if other == since)
                self._claims[demand] = Claim(since, self.now, before - self.failures)

    def _check_waits(self) -> None:
        """No claim waits for longer than its rounds take.

        In each round one claim is served: its own, that of one before it, or one that comes to
        nothing. A round is at most one arrival (of what was on its way), one turn, one batch, one
        unloading from RAM, one move away, one unloading of what stays when all else has gone, and
        the move of the claim that is served::

            wait <= rounds * (turn + batch + 5 * move)
        """
        turn = max(TURN, TURN_PER_RETURN * MOST_MOVE)
        for claim in self._claims.values():
            rounds = claim.rounds + self.failures
            assert self.now - claim.noted <= rounds * (turn + MOST_BATCH + 5 * MOST_MOVE)


def draw_copy(data: st.DataObject, name: str, demand: Demand) -> Copy:
    sizes = data.draw(copy_sizes())
    behind: Tier = data.draw(st.sampled_from(["host", "disk", "source"]))
    kept = data.draw(st.sampled_from([0, 0, 5]))
    return Copy(
        name,
        sizes,
        demand,
        behind,
        pinned=data.draw(st.sampled_from([False] * 9 + [True])),
        scratch=data.draw(st.sampled_from([0, 0, 10])),
        stays={d: min(kept, size) for d, size in sizes.items()} if behind != "source" else {},
    )


def draw_world(data: st.DataObject, *, surprises: bool) -> World:
    """Devices and models, of which nothing is loaded yet."""
    world = World(host=data.draw(st.integers(0, 150)))
    for number in range(data.draw(st.integers(2, 6))):
        demand = Demand()
        count = data.draw(st.sampled_from([1, 1, 1, 2]))
        world.models.append(
            Model(demand, [draw_copy(data, f"{number}", demand) for _ in range(count)])
        )
        for copy in world.models[-1].copies:
            may_grow = surprises and not copy.pinned
            growth = data.draw(st.sampled_from([0, 0, 0, SURPRISE])) if may_grow else 0
            world.actual[copy] = {device: size + growth for device, size in copy.sizes.items()}
            world.residency.copies.append(copy)
    return world


@settings(max_examples=100)
@given(data=st.data())
def test_no_model_starves_under_a_load_that_never_ends(data: st.DataObject) -> None:
    world = draw_world(data, surprises=False)
    random = data.draw(st.randoms(use_true_random=False))
    world.choose_move_time = lambda: random.choice([0.25, MOST_MOVE])
    for model in world.models:
        world.advance_to_a_time_of_its_own()
        model.waiting = 10**9
        world.note_work(model)
        world.look()
    for _ in range(150):
        for copy in world.residency.copies:
            while copy.is_open and copy.running < WORKERS and world.model(copy).waiting:
                world.start_batch(copy, random.choice([0.25, MOST_BATCH]))
        world.look()
        if world.next_time == math.inf:
            break
        world.advance(world.next_time)


@settings(max_examples=150, stateful_step_count=40)
class AnyEvents(RuleBasedStateMachine):
    """Work comes and goes, batches run, weights move or fail to, operators give orders."""

    @initialize(data=st.data())
    def prepare(self, data: st.DataObject) -> None:
        self.world = draw_world(data, surprises=True)

    @rule(data=st.data(), batches=st.integers(1, 4))
    def work_arrives(self, data: st.DataObject, batches: int) -> None:
        self._set_choices(data)
        self.world.advance_to_a_time_of_its_own()
        model = data.draw(st.sampled_from(self.world.models))
        model.waiting += batches
        self.world.note_work(model)
        self._look(data)

    @rule(data=st.data())
    def work_vanishes(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(self.world.models))
        model.waiting = 0
        self.world.note_work(model)
        self._look(data)

    @precondition(lambda self: self._startable())
    @rule(data=st.data(), seconds=batch_times)
    def batch_starts(self, data: st.DataObject, seconds: float) -> None:
        self.world.start_batch(data.draw(st.sampled_from(self._startable())), seconds)

    def _startable(self) -> list[Copy]:
        models = self.world.models
        return [c for m in models for c in m.copies if m.waiting and c.is_open]

    @rule(data=st.data(), seconds=st.integers(0, 80).map(lambda quarters: quarters / 4))
    def time_passes(self, data: st.DataObject, seconds: float) -> None:
        self._set_choices(data)
        self.world.advance(self.world.now + seconds)

    @rule(data=st.data(), unloads=st.booleans())
    def a_copy_is_sent_away(self, data: st.DataObject, unloads: bool) -> None:
        copy = data.draw(st.sampled_from(self.world.residency.copies))
        copy.leaves_for = "source" if unloads else copy.behind
        self._look(data)

    @rule(data=st.data())
    def a_model_is_unloaded(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(self.world.models))
        model.waiting = 0
        self.world.note_work(model)
        for copy in model.copies:
            copy.leaves_for = "source"
        self._look(data)
        self.world.run_dry()
        assert all(copy.is_released for copy in model.copies)

    @rule()
    def everything_comes_to_rest(self) -> None:
        self.world.run_dry()
        assert not any(model.waiting for model in self.world.models), "work is left waiting"
        for device, most in CAPACITIES.items():
            assert self.world.residency.used(device) <= most, "over the budget for good"

    def _set_choices(self, data: st.DataObject) -> None:
        def fault(move: Move) -> str:
            faults = {
                ("source", "device"): ["no room", "broken"],
                ("host", "device"): ["no room", "lost"],
                ("disk", "device"): ["no room", "lost"],
                ("device", "host"): ["not put away"],
                ("device", "disk"): ["not put away"],
            }.get((move.origin, move.to), [])
            return data.draw(st.sampled_from([""] * 6 + faults))

        self.world.choose_fault = fault
        self.world.choose_move_time = lambda: data.draw(move_times)

    def _look(self, data: st.DataObject) -> None:
        self._set_choices(data)
        self.world.look()

    @invariant()
    def ram_is_never_short(self) -> None:
        residency = self.world.residency
        assert residency.used(HOST) <= residency.capacities[HOST]

    @invariant()
    def only_surprises_exceed_a_budget(self) -> None:
        actual = self.world.actual
        for device, most in CAPACITIES.items():
            here = [c for c in actual if c.taken(device)]
            surprise = sum(SURPRISE for c in here if c.sizes == actual[c] and not c.pinned)
            assert self.world.residency.used(device) - surprise <= most

    @invariant()
    def batches_run_only_where_weights_are(self) -> None:
        for copy in self.world.residency.copies:
            assert not copy.running or copy.is_here

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.everything_comes_to_rest()


TestAnyEvents = AnyEvents.TestCase
