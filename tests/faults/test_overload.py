# SPDX-License-Identifier: Apache-2.0
"""More work than can be done: who goes first, and who is told to come back."""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from appliance.engine.jobs import Batch
from appliance.engine.lane import Lane
from appliance.settings import ModelSettings, Settings
from tests.api.management import Asked
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import FakeBackend, loading
from tests.unit.tickets import PATIENCE, Gate, until

MODEL = "fake/model"


def settings(**limits: float) -> Settings:
    return Settings(models=(ModelSettings(model=MODEL, **limits),), cpu_workers=1)


def asked(server: RunningServer, **body: object) -> Asked:
    return Asked(lambda: server.embed(model=MODEL, **body))


def lane_of(server: RunningServer) -> Lane:
    assert server.engine is not None
    lane = server.engine.models[0].lane
    assert lane is not None
    return lane


def waiting(server: RunningServer) -> int:
    return len(lane_of(server).queue)


def held_up(server: RunningServer, gate: Gate) -> Asked:
    """A request that keeps the only worker, on a model of two seconds a token so far."""
    running = asked(server, input="under way")
    assert gate.held.wait(PATIENCE)
    lane = lane_of(server)
    lane.tokens_done, lane.seconds_busy = 10, 20.0
    return running


def test_one_that_has_waited_too_long_is_told_when_to_come_back() -> None:
    gate = Gate()
    backend = FakeBackend(before_forward=gate)
    limits = settings(max_queue_seconds=1)
    with run_in_thread(limits, loading(lambda _: backend)) as server:
        running = held_up(server, gate)
        answer = asked(server, input="a b c").answer()
        assert answer.status_code == 429
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert "waited in the queue for 1 s" in error["message"]
        assert answer.headers["retry-after"] == "10"  # five tokens, its own
        assert waiting(server) == 0
        gate.opened.set()
        assert running.answer().status_code == 200
        assert server.embed(model=MODEL, input="good").status_code == 200
    assert backend.batches == [[4], [3]]  # nothing of the late one


def test_one_that_would_wait_too_long_is_refused_before_it_is_read() -> None:
    gate = Gate()
    backend = FakeBackend(before_forward=gate)
    limits = settings(max_queue_seconds=10)
    with run_in_thread(limits, loading(lambda _: backend)) as server:
        running = held_up(server, gate)
        first = asked(server, input="a b c d e f")
        until(lambda: waiting(server) == 1)
        refused = server.embed(model=MODEL, input="a b c d e f " * 8)
        assert refused.status_code == 429
        assert "it would have to wait in the queue for 16.0 s" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"] == "16"
        # A short one would not: no more than as many tokens of the other go first.
        short = asked(server, input="a b")
        until(lambda: waiting(server) == 2)
        urgent = asked(server, input="a b c d e f", priority="high")
        until(lambda: waiting(server) == 3)
        gate.opened.set()
        assert {each.answer().status_code for each in (running, first, short, urgent)} == {200}


def test_one_that_has_begun_is_finished_however_long_it_takes() -> None:
    gate = Gate()
    limits = settings(max_queue_seconds=1, max_batch_requests=1)
    with run_in_thread(limits, loading(lambda _: FakeBackend(before_forward=gate))) as server:
        running = asked(server, input=["one", "two", "three"])
        assert gate.held.wait(PATIENCE)
        late = asked(server, input="late")
        assert late.answer().status_code == 429  # so the time is over for both
        gate.opened.set()
        assert running.answer().status_code == 200


def test_higher_priority_goes_first() -> None:
    order: list[int] = []

    def note(batch: Batch) -> None:
        order.extend(batch.lengths.tolist())

    gate = Gate(note)
    limits = settings(max_batch_requests=1)
    with run_in_thread(limits, loading(lambda _: FakeBackend(before_forward=gate))) as server:
        running = asked(server, input="x")
        assert gate.held.wait(PATIENCE)
        rest = []
        for count, options in enumerate(
            [{"priority": "low"}, {}, {"priority": None}, {"priority": "high"}], start=2
        ):
            rest.append(asked(server, input=" ".join("x" * count), **options))
            until(lambda: waiting(server) == len(rest))
        gate.opened.set()
        assert {each.answer().status_code for each in (running, *rest)} == {200}
    assert (np.array(order) - 2).tolist() == [1, 5, 3, 4, 2]


@pytest.mark.parametrize("priority", ["urgent", 1, ""])
def test_an_unknown_priority_is_told(priority: object) -> None:
    with run_in_thread(settings()) as server:
        answer: httpx.Response = server.embed(model=MODEL, input="x", priority=priority)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "priority"
    if isinstance(priority, str):
        assert "'high', 'normal', 'low'" in answer.json()["error"]["message"]
