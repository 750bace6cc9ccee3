# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from appliance.engine.backend import DeviceOutOfMemory
from appliance.engine.batcher import Piece
from appliance.engine.budget import BatchBudget
from appliance.engine.device import Device
from appliance.engine.execution import Executor, fail
from appliance.engine.jobs import Batch
from appliance.engine.lane import Lane
from appliance.engine.types import FloatMatrix
from appliance.errors import InternalError
from tests.fakes import FakeBackend
from tests.unit.tickets import (
    PATIENCE,
    POISON,
    Gate,
    Ticket,
    lane,
    piling_up,
    running,
    shared_lane,
    until,
)


def executor_of(held: Lane) -> Executor:
    (place,) = held.places.values()
    return place.executor


def no_room_for_more_than(tokens: int) -> Callable[[Batch], None]:
    def check(batch: Batch) -> None:
        if len(batch.input_ids) > tokens:
            raise DeviceOutOfMemory("not enough")

    return check


def test_memory_that_runs_out_makes_the_next_batches_smaller() -> None:
    with piling_up(then=no_room_for_more_than(300)) as (_, held, gate):
        ticket = Ticket(*[100] * 20)
        held.submit(ticket.job)
        gate.opened.set()
        ticket.assert_right()
        executor = executor_of(held)
        assert executor.overflows >= 2
        assert executor.budget.tokens <= 250
        assert isinstance(held.backend, FakeBackend)
        assert max(map(sum, held.backend.batches[-3:])) <= executor.budget.tokens


def test_batches_grow_again_once_there_is_room() -> None:
    with running() as device:
        held = lane(device, FakeBackend(), tokens=400)
        executor = executor_of(held)
        executor.budget.shrink(400)
        for _ in range(executor.budget.MOST_PATIENCE):
            ticket = Ticket(150)
            held.submit(ticket.job)
            ticket.wait()
            if executor.budget.tokens == 400:
                break
        assert executor.budget.tokens == 400


def test_a_text_for_which_there_is_no_room_at_all_fails_alone() -> None:
    with piling_up(then=no_room_for_more_than(50)) as (_, held, gate):
        small, large = Ticket(10, 20), Ticket(60)
        held.submit(small.job)
        held.submit(large.job)
        gate.opened.set()
        small.assert_right()
        error = large.wait().error
        assert isinstance(error, InternalError)
        assert "60 tokens does not fit in the device's memory" in str(error)


class HalfPrecision(FakeBackend):
    """Overflows for poisoned texts, unless it computes in float32."""

    def __init__(self, before_forward: Callable[[Batch], None] | None = None) -> None:
        super().__init__(before_forward=before_forward)
        self.is_half_precision = True
        self.recomputed: list[list[int]] = []

    def forward(self, batch: Batch) -> FloatMatrix:
        vectors = super().forward(batch)
        vectors[batch.input_ids[batch.cu_seqlens[:-1]] == POISON, 3] = np.inf
        return vectors

    def forward_in_float32(self, batch: Batch) -> FloatMatrix:
        self.recomputed.append(batch.lengths.tolist())
        return super().forward(batch)


def test_texts_that_overflow_are_computed_once_more_in_float32(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with piling_up(HalfPrecision) as (_, held, gate):
        tickets = [Ticket(1, 2, 3), Ticket(4, 5, token=POISON), Ticket(6, token=POISON)]
        for ticket in tickets:
            held.submit(ticket.job)
        with caplog.at_level(logging.WARNING):
            gate.opened.set()
            for ticket in tickets:
                ticket.assert_right()
        assert isinstance(held.backend, HalfPrecision)
        assert held.backend.recomputed == [[4, 5, 6]]
        assert executor_of(held).recomputed == 3
    assert [r.message for r in caplog.records if "overflow in half precision" in r.message]


class NeverFinite(HalfPrecision):
    def forward_in_float32(self, batch: Batch) -> FloatMatrix:
        return self.forward(batch)


class CannotRecompute(HalfPrecision):
    def forward_in_float32(self, batch: Batch) -> FloatMatrix:
        raise DeviceOutOfMemory("no room for a copy")


@pytest.mark.parametrize("backend", [NeverFinite, CannotRecompute])
def test_what_float32_cannot_help_fails_alone(backend: Callable[..., FakeBackend]) -> None:
    with piling_up(backend) as (_, held, gate):
        good, bad = Ticket(1, 2), Ticket(3, token=POISON)
        held.submit(good.job)
        held.submit(bad.job)
        gate.opened.set()
        good.assert_right()
        assert "NaN or infinity" in str(bad.wait().error)


class Queued(FakeBackend):
    """An accelerator's: a batch is begun at once and done later, in the order of beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.may_begin = threading.Event()

    def launch(self, batch: Batch) -> Callable[[], FloatMatrix]:
        assert self.may_begin.wait(PATIENCE)
        number = len(self.batches)
        vectors = self.forward(batch)
        self.events.append(f"begin {number}")

        def wait() -> FloatMatrix:
            self.events.append(f"end {number}")
            return vectors

        return wait


def test_an_accelerator_begins_a_batch_before_the_one_before_has_ended() -> None:
    device = Device("cuda:0")
    device.start()
    try:
        backend = Queued()
        held = lane(device, backend, tokens=10)
        tickets = [Ticket(10) for _ in range(3)]
        for ticket in tickets:
            held.submit(ticket.job)
        backend.may_begin.set()
        for ticket in tickets:
            ticket.assert_right()
        assert backend.events == ["begin 0", "begin 1", "end 0", "begin 2", "end 1", "end 2"]
        assert device.run(lambda: list(backend.events)).result(PATIENCE) == backend.events
    finally:
        device.stop()


def test_a_task_finds_no_batch_under_way() -> None:
    device = Device("cuda:0")
    device.start()
    try:
        backend = Queued()
        held = lane(device, backend, tokens=10)
        tickets = [Ticket(10), Ticket(10)]
        for ticket in tickets:
            held.submit(ticket.job)
        seen = device.run(lambda: list(backend.events))
        backend.may_begin.set()
        begun = sum("begin" in event for event in seen.result(PATIENCE))
        assert begun == sum("end" in event for event in seen.result())
        for ticket in tickets:
            ticket.assert_right()
    finally:
        device.stop()


def test_a_model_that_runs_alone_has_one_batch_at_a_time() -> None:
    gate = Gate()
    with running(2) as device:
        backend = FakeBackend(before_forward=gate)
        backend.runs_alone = True
        held = lane(device, backend, tokens=10)
        tickets = [Ticket(10), Ticket(10), Ticket(10)]
        for ticket in tickets:
            held.submit(ticket.job)
        other = lane(device, FakeBackend())
        assert gate.held.wait(PATIENCE)
        beside = Ticket(5)
        other.submit(beside.job)
        beside.assert_right()
        assert len(backend.batches) == 1
        gate.opened.set()
        for ticket in tickets:
            ticket.assert_right()
        assert backend.batches == [[10], [10], [10]]


@contextmanager
def two_devices() -> Iterator[tuple[Device, Device]]:
    lock = threading.Lock()
    devices = Device("cuda:0", lock=lock), Device("cuda:1", lock=lock)
    for device in devices:
        device.start()
    try:
        yield devices
    finally:
        for device in devices:
            device.stop()


def test_copies_on_several_devices_share_one_queue() -> None:
    with two_devices() as devices:
        gates = [Gate(), Gate()]
        copies = [FakeBackend(before_forward=gate) for gate in gates]
        shared = shared_lane(dict(zip(devices, copies, strict=True)), 3000)
        ticket = Ticket(*[1000] * 12)
        shared.submit(ticket.job)
        for gate in gates:
            assert gate.held.wait(PATIENCE)  # both work on the one request
        for gate in gates:
            gate.opened.set()
        ticket.assert_right()
        assert sum(len(copy.batches) for copy in copies) >= 4


def test_a_stuck_copy_leaves_the_queue_to_the_others() -> None:
    with two_devices() as devices:
        gate = Gate()
        copies = [FakeBackend(before_forward=gate), FakeBackend()]
        shared = shared_lane(dict(zip(devices, copies, strict=True)), 100)
        devices[1].remove(shared)
        first = Ticket(100)
        shared.submit(first.job)
        assert gate.held.wait(PATIENCE)
        devices[1].add(shared)
        for _ in range(5):
            ticket = Ticket(100)
            shared.submit(ticket.job)
            ticket.assert_right()
        gate.opened.set()
        first.assert_right()
        until(lambda: not any(copy.running for copy in shared.copies))


def test_a_job_that_has_its_vectors_cannot_fail_any_more() -> None:
    ticket = Ticket(3)
    finish = Executor("fake", FakeBackend(), BatchBudget(10)).launch([Piece(ticket.job, 0)])
    assert finish is not None
    finish()
    fail(ticket.job, InternalError("too late"))
    ticket.assert_right()
    assert ticket.times_done == 1
