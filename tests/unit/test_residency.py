# SPDX-License-Identifier: Apache-2.0
"""Which weights come and which give way, with a clock held by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from appliance.engine.copies import Copy, Demand, Tier
from appliance.engine.residency import TURN_PER_RETURN
from tests.unit.boards import TURN, Board


@pytest.fixture
def board() -> Board:
    return Board()


def test_work_brings_a_model_to_its_device(board: Board) -> None:
    one = board.add("one", 60)
    assert board.look() == []
    board.ask(one)
    assert board.look() == ["one: source-device"]
    assert board.look() == []  # it is on its way
    board.end(one)
    assert one.is_open
    assert board.look() == []


def test_claims_are_served_in_the_order_in_which_they_began(board: Board) -> None:
    late, early = board.add("late", 60), board.add("early", 60)
    board.ask(late, ago=1)
    board.ask(early, ago=2)
    assert board.look() == ["early: source-device"]


def test_a_later_claim_does_not_take_the_room_that_is_made_for_an_earlier_one(board: Board) -> None:
    board.here("busy", 60, running=1, ago=0)
    large, small = board.add("large", 60), board.add("small", 30)
    board.ask(large, ago=2)
    board.ask(small, ago=1)
    assert board.look() == []


def test_a_claim_elsewhere_does_not_wait_for_it() -> None:
    board = Board(a=100, b=100)
    board.here("busy", {"a": 60}, running=1, ago=0)
    first, second = board.add("first", {"a": 60}), board.add("second", {"b": 60})
    board.ask(first, ago=2)
    board.ask(second, ago=1)
    assert board.look() == ["second: source-device"]


def test_models_that_fit_beside_each_other_all_come_at_once(board: Board) -> None:
    for name in "abc":
        board.ask(board.add(name, 30))
    assert len(board.look()) == 3


class TestVictims:
    def test_one_without_work_gives_way_first(self, board: Board) -> None:
        busy = board.here("busy", 50, ago=50)
        board.ask(busy)
        board.here("idle", 50, ago=20)
        board.ask(board.add("new", 50))
        assert board.look() == ["idle: device-source"]

    def test_the_longest_idle_goes_first(self, board: Board) -> None:
        board.here("short", 50, ago=20)
        board.here("long", 50, ago=30)
        board.ask(board.add("new", 50))
        assert board.look() == ["long: device-source"]

    def test_idle_time_counts_in_terms_of_the_cost_of_a_return(self, board: Board) -> None:
        board.here("cheap", 50, ago=20, return_seconds=1.0)
        board.here("dear", 50, ago=30, return_seconds=2.0)
        board.ask(board.add("new", 50))
        assert board.look() == ["cheap: device-source"]

    def test_no_more_go_than_it_takes(self, board: Board) -> None:
        board.here("small", 20, ago=50)
        board.here("large", 80, ago=20)
        board.ask(board.add("new", 70))
        assert board.look() == ["large: device-source"]  # for "small" alone would not do

    def test_as_many_go_as_it_takes(self, board: Board) -> None:
        for name in "abc":
            board.here(name, 30, ago=50)
        board.ask(board.add("new", 70))
        assert len(board.look()) == 2

    def test_pinned_ones_stay(self, board: Board) -> None:
        board.here("pinned", 50, ago=90, pinned=True)
        board.here("other", 50, ago=20)
        board.ask(board.add("new", 50))
        assert board.look() == ["other: device-source"]

    def test_they_go_to_the_place_behind_them(self, board: Board) -> None:
        board.here("old", 60, behind="disk")
        board.ask(board.add("new", 60))
        assert board.look() == ["old: device-disk"]

    def test_what_is_leaving_counts_as_gone(self, board: Board) -> None:
        board.here("a", 50, ago=50)
        board.here("b", 50, ago=40)
        board.ask(board.add("new", 50))
        assert board.look() == ["a: device-source"]
        assert board.look() == []

    def test_none_goes_while_what_is_coming_has_to_go_too(self, board: Board) -> None:
        coming = board.add("coming", 60)
        board.ask(coming, ago=3)
        board.here("small", 10)
        assert board.look() == ["coming: source-device"]
        board.ask(board.add("new", 90))
        assert board.look() == []
        board.end(coming)
        coming.demand.since = None
        assert board.look(after=TURN) == ["coming: device-source"]  # "small" may stay


class TestTurns:
    def test_one_without_work_is_spared_as_long_as_its_return_takes(self, board: Board) -> None:
        board.here("old", 60, ago=2, return_seconds=5.0)
        board.ask(board.add("new", 60))
        assert board.look() == []
        assert board.plan.look_again == board.now + 3
        assert board.look(after=2.9) == []
        assert board.look(after=0.2) == ["old: device-source"]

    def test_but_no_longer_than_its_turn(self, board: Board) -> None:
        old = board.here("old", 60, ago=0, return_seconds=2.0)
        new = board.add("new", 60)
        board.ask(new)
        for _ in range(9):
            assert board.look(after=1) == []
            old.used = board.now  # a batch every second
        assert board.look(after=1) == ["old: device-source"]

    def test_one_with_work_has_its_turn(self, board: Board) -> None:
        busy = board.here("busy", 60, ago=0)
        board.ask(busy)
        board.ask(board.add("new", 60))
        assert board.look() == []
        assert board.plan.look_again == board.now + TURN
        assert board.look(after=TURN) == ["busy: device-source"]

    def test_then_it_takes_no_further_batch_and_goes_when_the_last_has_ended(
        self, board: Board
    ) -> None:
        busy = board.here("busy", 60, ago=0, running=1)
        board.ask(board.add("new", 60))
        assert board.look() == []
        assert busy.is_open
        assert board.look(after=TURN) == []
        assert not busy.is_open
        busy.running = 0
        assert board.look() == ["busy: device-source"]

    def test_it_goes_on_if_the_claim_has_gone(self, board: Board) -> None:
        busy = board.here("busy", 60, running=1)
        new = board.add("new", 60)
        board.ask(new)
        board.look()
        assert not busy.is_open
        new.demand.since = None
        board.look()
        assert busy.is_open

    def test_it_grows_with_the_cost_of_a_return(self, board: Board) -> None:
        busy = board.here("busy", 60, ago=0, return_seconds=7.0)
        board.ask(busy)
        board.ask(board.add("new", 60))
        board.look()
        assert board.plan.look_again == board.now + 7 * TURN_PER_RETURN

    def test_who_has_had_it_waits_behind_the_others(self, board: Board) -> None:
        busy = board.here("busy", 60)
        board.ask(busy, ago=50)
        first, second = board.add("first", 60), board.add("second", 60)
        board.ask(first, ago=3)
        board.ask(second, ago=2)
        assert board.look() == ["busy: device-source"]
        board.end(busy)
        assert board.look() == ["first: source-device"]
        board.end(first)
        assert board.look(after=TURN) == ["first: device-source"]
        board.end(first)
        assert board.look() == ["second: source-device"]

    def test_nothing_gives_way_before_all_that_have_to_may(self, board: Board) -> None:
        board.here("idle", 50)
        busy = board.here("busy", 50, ago=0)
        board.ask(busy)
        board.ask(board.add("new", 100))
        assert board.look() == []
        assert sorted(board.look(after=TURN)) == ["busy: device-source", "idle: device-source"]

    def test_there_is_no_need_to_look_again_where_nothing_waits(self, board: Board) -> None:
        board.here("idle", 60)
        board.look()
        assert board.plan.look_again == math.inf


class TestWhatNeverFits:
    def test_it_is_refused(self, board: Board) -> None:
        huge = board.add("huge", 101)
        board.here("idle", 60)
        board.ask(huge)
        assert board.look() == []
        assert board.plan.refused == [huge]

    def test_others_are_not(self, board: Board) -> None:
        huge, other = board.add("huge", 101), board.add("other", 60)
        board.ask(huge, ago=2)
        board.ask(other, ago=1)
        assert board.look() == ["other: source-device"]
        assert board.plan.refused == [huge]

    def test_pinned_ones_count_and_their_batches_too(self, board: Board) -> None:
        board.here("pinned", 40, pinned=True, scratch=10)
        fits, does_not = board.add("fits", 50), board.add("does not", 51)
        board.ask(does_not)
        board.look()
        assert board.plan.refused == [does_not]
        does_not.demand.since = None
        board.ask(fits)
        assert board.look() == ["fits: source-device"]

    def test_a_copy_that_fits_takes_the_place_of_one_that_does_not(self) -> None:
        board = Board(a=10, b=100)
        demand = Demand()
        board.add("first", {"a": 60}, demand=demand)
        board.add("second", {"b": 60}, demand=demand)
        demand.since = board.now
        assert board.look() == ["second: source-device"]
        assert board.plan.refused == []


class TestOrders:
    def test_a_copy_leaves_as_soon_as_it_has_no_work(self, board: Board) -> None:
        copy = board.here("copy", 60, running=1, ago=0, behind="disk")
        copy.leaves_for = "disk"
        assert board.look() == []
        assert copy.is_open
        copy.running = 0
        board.ask(copy)
        assert board.look() == []
        copy.demand.since = None
        assert board.look() == ["copy: device-disk"]
        board.end(copy)
        assert copy.leaves_for is None

    def test_pinned_ones_too(self, board: Board) -> None:
        copy = board.here("copy", 60, pinned=True)
        copy.leaves_for = "source"
        assert board.look() == ["copy: device-source"]

    def test_a_parked_one_is_unloaded_from_where_it_is(self, board: Board) -> None:
        copy = board.add("copy", 60, tier="disk", behind="disk")
        copy.leaves_for = "source"
        assert board.look() == ["copy: disk-source"]

    @pytest.mark.parametrize("tier", ["disk", "source"])
    def test_what_has_left_already_stays(self, board: Board, tier: Tier) -> None:
        copy = board.add("copy", 60, tier=tier, behind="disk")
        copy.leaves_for = tier
        assert board.look() == []
        assert copy.leaves_for is None

    def test_an_order_to_unload_outlives_a_move_to_elsewhere(self, board: Board) -> None:
        copy = board.here("copy", 60, behind="disk")
        copy.leaves_for = "disk"
        board.look()
        copy.leaves_for = "source"
        board.end(copy)
        assert board.look() == ["copy: disk-source"]
        board.end(copy)
        assert copy.is_released

    def test_and_one_back_that_came_to_nothing(self, board: Board) -> None:
        copy = board.add("copy", 60, tier="disk", behind="disk")
        board.ask(copy)
        assert board.look() == ["copy: disk-device"]
        copy.leaves_for = "source"
        copy.demand.since = None
        board.residency.overflowed(copy)
        board.end(copy, "disk")
        assert board.look() == ["copy: disk-source"]


class TestSeveralDevices:
    def test_one_copy_may_be_spread_over_two(self) -> None:
        board = Board(a=100, b=100)
        board.here("on a", {"a": 60})
        board.here("on b", {"b": 60})
        board.ask(board.add("spread", {"a": 60, "b": 30}))
        assert board.look() == ["on a: device-source"]
        assert board.residency.used("b") == 60

    def test_each_has_its_own_budget(self) -> None:
        board = Board(a=100, b=50)
        board.here("on a", {"a": 100}, ago=400)
        board.here("on b", {"b": 50})
        board.ask(board.add("new", {"b": 20}))
        assert board.look() == ["on b: device-source"]


class TestReplicas:
    @staticmethod
    def pair(board: Board, **state: Any) -> tuple[Copy, Copy]:
        demand = Demand()
        return (
            board.add("one", {"a": 60}, demand=demand, **state),
            board.add("two", {"b": 60}, demand=demand, **state),
        )

    def test_one_copy_is_enough(self) -> None:
        board = Board(a=100, b=100)
        one, _ = self.pair(board)
        board.here("other", {"b": 60})
        board.ask(one)
        assert board.look() == ["one: source-device"]
        board.end(one)
        assert board.look() == []  # "other" does not give way to the second

    def test_the_one_that_has_room_comes_first(self) -> None:
        board = Board(a=100, b=100)
        board.here("other", {"a": 60}, running=1, ago=0)
        one, _ = self.pair(board)
        board.ask(one)
        assert board.look() == ["two: source-device"]

    def test_the_further_one_comes_into_free_room(self) -> None:
        board = Board(a=100, b=100)
        one, _ = self.pair(board)
        board.ask(one)
        assert board.look() == ["one: source-device"]
        board.end(one)
        assert board.look() == ["two: source-device"]

    def test_not_into_room_that_is_made_for_another(self) -> None:
        board = Board(a=100, b=100)
        one, _ = self.pair(board)
        one.tier, one.came = "device", board.now
        board.here("leaving", {"b": 30}, running=1)
        board.ask(board.add("new", {"b": 80}))
        assert board.look() == []

    def test_it_gives_way_like_any_other(self) -> None:
        board = Board(a=100, b=100)
        self.pair(board, tier="device")
        board.ask(board.add("new", {"b": 60}))
        assert board.look() == ["two: device-source"]

    def test_all_can_be_unloaded(self) -> None:
        board = Board(a=100, b=100)
        one, two = self.pair(board, tier="device", running=1)
        one.leaves_for = two.leaves_for = "source"
        one.running = 0
        assert board.look() == ["one: device-source"]
        board.end(one)
        assert board.look() == []
        two.running = 0
        assert board.look() == ["two: device-source"]
        board.end(two)
        assert board.look() == []
        assert one.is_released
        assert two.is_released


def test_the_cost_of_a_return_is_what_it_was_at_the_last_ones(board: Board) -> None:
    copy = board.add("copy", 60, tier="disk", behind="disk", return_seconds=1.0)
    board.residency.arrived(copy, board.now, 3.0)
    assert copy.return_seconds == 2.0
    board.residency.arrived(copy, board.now, None)  # loaded anew, which tells nothing of the disk
    assert copy.return_seconds == 2.0


def test_nothing_has_to_be_looked_at_again_until_something_happens(board: Board) -> None:
    one, two = board.here("one", 60), board.add("two", 60)
    board.look()
    assert board.plan.is_settled
    board.ask(one)
    one.running = 1
    board.look()
    assert board.plan.is_settled  # work for those that are there is done without asking
    board.ask(two)
    one.came = board.now
    board.look()
    assert not board.plan.is_settled  # the turn of the one has to end
    two.demand.since = None
    one.leaves_for = "source"
    board.look()
    assert not board.plan.is_settled  # it has an order that waits for its batch to end


def test_weights_that_are_more_than_the_budget_are_looked_at_until_they_have_gone(
    board: Board,
) -> None:
    one, two = board.here("one", 60), board.here("two", 60, running=1, ago=0)
    one.running = 1
    board.ask(one)
    board.look()
    assert not board.plan.is_settled
    one.running = two.running = 0
    one.demand.since = None
    assert board.look() == ["one: device-source"]
