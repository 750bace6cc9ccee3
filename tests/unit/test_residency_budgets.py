# SPDX-License-Identifier: Apache-2.0
"""What counts towards the budgets of devices and of RAM, and what is done when they are short."""

from __future__ import annotations

import pytest

from appliance.engine.copies import HOST, Copy
from tests.unit.boards import TURN, Board


@pytest.fixture
def board() -> Board:
    return Board()


class TestRoomForBatches:
    def test_the_largest_need_counts_once(self, board: Board) -> None:
        board.here("a", 30, scratch=10)
        board.here("b", 30, scratch=5)
        board.ask(board.add("fits", 30, scratch=8))
        assert board.look() == ["fits: source-device"]

    def test_it_counts_for_what_is_to_come(self, board: Board) -> None:
        board.here("a", 50, scratch=10)
        board.ask(board.add("new", 40, scratch=11))
        assert board.look() == ["a: device-source"]

    def test_it_goes_with_who_needs_it(self, board: Board) -> None:
        board.here("roomy", 10, scratch=60, ago=50)
        board.here("plain", 30, ago=20)
        board.ask(board.add("new", 40))
        assert board.look() == ["roomy: device-source"]

    def test_one_that_is_alone_has_all_that_there_is(self, board: Board) -> None:
        board.here("old", 100, scratch=20)
        new = board.add("new", 100, scratch=30)
        board.ask(new)
        assert board.look() == ["old: device-source"]
        board.end(board.residency.copies[0])
        assert board.look() == ["new: source-device"]


class TestSmallTensorsThatStay:
    def test_they_count_while_the_rest_is_parked(self) -> None:
        board = Board(host=1000)
        parked = board.add("parked", 60, tier="host", behind="host", stays={"cpu": 5}, scratch=10)
        assert board.residency.used("cpu") == 5
        board.ask(board.add("fits", 85))
        assert board.look() == ["fits: source-device"]
        assert parked.tier == "host"

    def test_they_are_not_counted_twice_on_the_way_back(self) -> None:
        board = Board(host=1000)
        parked = board.add("parked", 100, tier="host", behind="host", stays={"cpu": 5})
        board.ask(parked)
        assert board.look() == ["parked: host-device"]
        assert board.residency.used("cpu") == 100

    def test_more_give_way_where_they_stay(self) -> None:
        board = Board(host=1000)
        for name in "ab":
            board.here(name, 50, behind="host", stays={"cpu": 10})
        board.ask(board.add("new", 50))
        assert sorted(board.look()) == ["a: device-host", "b: device-host"]

    def test_they_go_in_the_end_if_nothing_else_can(self) -> None:
        board = Board(host=1000)
        parked = board.add("parked", 60, tier="host", behind="host", stays={"cpu": 5})
        board.ask(board.add("new", 98))
        assert board.look() == ["parked: host-source"]
        board.end(parked)
        assert board.look() == ["new: source-device"]

    def test_one_that_would_free_nothing_so_is_unloaded(self) -> None:
        board = Board(host=1000)
        board.here("small", 4, behind="host", stays={"cpu": 4})
        board.ask(board.add("new", 98))
        assert board.look() == ["small: device-source"]

    def test_none_is_sent_away_twice(self) -> None:
        """Once for what it kept on the device, and once for its place in RAM."""
        board = Board(host=60)
        parked = board.add("parked", 60, tier="host", behind="host", stays={"cpu": 5}, parked=60)
        board.here("victim", 50, behind="host")
        board.ask(board.add("new", 98))
        assert board.look() == ["parked: host-source"]
        board.end(parked)
        assert board.look() == ["victim: device-host"]

    def test_who_loses_them_keeps_its_place_in_the_line(self) -> None:
        board = Board(host=1000)
        parked = board.add("parked", 60, tier="host", behind="host", stays={"cpu": 5})
        board.ask(board.add("new", 98), ago=3)
        board.ask(parked, ago=2)
        assert board.look() == ["parked: host-source"]
        assert parked.demand.since == board.now - 2


class TestRam:
    """What is parked in RAM, which has a budget too."""

    @staticmethod
    def board_with_a_victim() -> tuple[Board, Copy]:
        board = Board(host=100)
        victim = board.here("victim", 60, behind="host")
        board.ask(board.add("claim", 60))
        return board, victim

    @staticmethod
    def park(board: Board, name: str, size: int, ago: float) -> Copy:
        return board.add(name, size, tier="host", behind="host", parked=size, ago=ago)

    def test_it_is_taken_as_soon_as_weights_are_on_their_way_there(self) -> None:
        board, victim = self.board_with_a_victim()
        assert board.look() == ["victim: device-host"]
        assert board.residency.used(HOST) == 60
        board.end(victim, "source")  # it could not be parked
        assert board.residency.used(HOST) == 0

    def test_the_longest_unused_is_unloaded_for_another(self) -> None:
        board, _ = self.board_with_a_victim()
        self.park(board, "newer", 40, ago=300)
        older = self.park(board, "older", 40, ago=400)
        assert board.look() == ["older: host-source"]
        assert board.look() == []
        board.end(older)
        assert board.look() == ["victim: device-host"]

    def test_one_that_work_waits_for_is_not(self) -> None:
        board, _ = self.board_with_a_victim()
        self.park(board, "newer", 40, ago=300)
        older = self.park(board, "older", 40, ago=400)
        board.ask(older)
        assert board.look() == ["newer: host-source"]

    def test_what_it_cannot_hold_is_loaded_anew(self) -> None:
        board, _ = self.board_with_a_victim()
        board.here("pinned", 10, parked=50, pinned=True)
        assert board.look() == ["victim: device-source"]

    def test_a_copy_that_it_has_already_needs_no_more_room(self) -> None:
        board, victim = self.board_with_a_victim()
        victim.parked = 60
        self.park(board, "other", 40, ago=400)
        assert board.look() == ["victim: device-host"]

    def test_more_than_was_expected_makes_others_go(self) -> None:
        board = Board(host=100)
        self.park(board, "newer", 40, ago=300)
        older = self.park(board, "older", 40, ago=400)
        older.parked = 70
        assert board.look() == ["older: host-source"]
        assert board.look() == []


class TestMoreThanWasExpected:
    def test_weights_that_turn_out_larger_make_room(self, board: Board) -> None:
        board.here("old", 50)
        new = board.add("new", 50)
        board.ask(new)
        assert board.look() == ["new: source-device"]
        new.sizes = {"cpu": 70}
        board.end(new)
        assert board.look() == ["old: device-source"]

    def test_those_that_do_not_fit_at_all_go_and_are_refused(self, board: Board) -> None:
        new = board.add("new", 50)
        board.ask(new)
        board.look()
        new.sizes = {"cpu": 101}
        board.end(new)
        assert board.look() == []
        assert board.look(after=TURN) == ["new: device-source"]
        board.end(new)
        board.look()
        assert board.plan.refused == [new]

    def test_a_device_that_had_no_room_has_something_else_give_way(self, board: Board) -> None:
        board.here("other", 30)
        new = board.add("new", 60)
        board.ask(new)
        assert board.look() == ["new: source-device"]
        board.residency.overflowed(new)
        board.end(new, "source")
        assert board.look() == ["other: device-source"]
        board.end(board.residency.copies[0])
        assert board.look() == ["new: source-device"]

    def test_when_nothing_else_is_left_it_is_refused_and_may_try_again(self, board: Board) -> None:
        new = board.add("new", 60)
        board.ask(new)
        board.look()
        board.residency.overflowed(new)
        board.end(new, "source")
        assert board.look() == []
        assert board.plan.refused == [new]
        assert board.look() == ["new: source-device"]  # asked for once more
