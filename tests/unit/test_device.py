# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from appliance.engine import background
from appliance.engine.cores import available_cores
from appliance.engine.device import Device
from appliance.engine.jobs import Batch
from appliance.engine.lane import Lane
from appliance.engine.types import FloatMatrix
from appliance.errors import InternalError, ModelUnavailable
from tests.fakes import FakeBackend
from tests.unit.tickets import (
    PATIENCE,
    POISON,
    Gate,
    Ticket,
    lane,
    piling_up,
    refuse_poison,
    running,
    shared_lane,
    until,
)


def batches_after_the_first(held: Lane) -> list[list[int]]:
    assert isinstance(held.backend, FakeBackend)
    return held.backend.batches[1:]


@pytest.mark.parametrize("workers", [1, 3])
def test_each_text_gets_its_own_vector(workers: int) -> None:
    generator = np.random.default_rng(0)
    tickets = [
        Ticket(*generator.integers(1, 200, generator.integers(1, 9)), token=token)
        for token in range(60)
    ]
    with running(workers) as device:
        served = lane(device, FakeBackend(), tokens=300)
        for ticket in tickets:
            served.submit(ticket.job)
        for ticket in tickets:
            ticket.assert_right()
    assert [ticket.times_done for ticket in tickets] == [1] * len(tickets)


def test_texts_of_different_requests_share_a_batch_in_order_of_length() -> None:
    with piling_up() as (_device, held, gate):
        tickets = [Ticket(30), Ticket(10, 20), Ticket(5)]
        for ticket in tickets:
            held.submit(ticket.job)
        gate.opened.set()
        for ticket in tickets:
            ticket.assert_right()
        assert batches_after_the_first(held) == [[5, 10, 20, 30]]


@pytest.mark.parametrize(
    ("limits", "batches"), [({"tokens": 20}, [[10, 10], [10]]), ({"texts": 1}, [[10], [10], [10]])]
)
def test_a_batch_keeps_the_models_limits(limits: dict[str, int], batches: list[list[int]]) -> None:
    with piling_up(**limits) as (_device, held, gate):
        ticket = Ticket(10, 10, 10)
        held.submit(ticket.job)
        gate.opened.set()
        ticket.assert_right()
        assert batches_after_the_first(held) == batches


def test_a_bad_text_fails_its_own_request_only() -> None:
    with piling_up(then=refuse_poison) as (_device, held, gate):
        good, bad = [Ticket(n, n + 1) for n in range(1, 6)], Ticket(3, 4, token=POISON)
        for ticket in (*good[:3], bad, *good[3:]):
            held.submit(ticket.job)
        gate.opened.set()
        for ticket in good:
            ticket.assert_right()
        assert isinstance(bad.wait().error, InternalError)
        assert bad.times_done == 1


def test_what_is_left_of_a_failed_request_is_not_computed() -> None:
    with piling_up(tokens=10, then=refuse_poison) as (_device, held, gate):
        bad, good = Ticket(*[10] * 50, token=POISON), Ticket(9)
        held.submit(bad.job)
        held.submit(good.job)
        gate.opened.set()
        good.assert_right()
        until(lambda: not held.queue.tokens)
        assert len(batches_after_the_first(held)) == 2


def test_a_fault_is_told_without_its_details() -> None:
    with piling_up(then=refuse_poison) as (_device, held, gate):
        bad = Ticket(3, token=POISON)
        held.submit(bad.job)
        gate.opened.set()
        assert "bad text" not in str(bad.wait().error)


def test_a_batch_too_large_for_the_memory_is_halved_until_it_fits() -> None:
    def out_of_memory(batch: Batch) -> None:
        if len(batch) > 2:
            raise MemoryError

    with piling_up(then=out_of_memory) as (_device, held, gate):
        ticket = Ticket(*range(1, 10))
        held.submit(ticket.job)
        gate.opened.set()
        ticket.assert_right()


class NotFinite(FakeBackend):
    """Gives no number for poisoned texts."""

    def forward(self, batch: Batch) -> FloatMatrix:
        vectors = super().forward(batch)
        vectors[batch.input_ids[batch.cu_seqlens[:-1]] == POISON, 3] = np.nan
        return vectors


def test_a_vector_that_is_not_finite_fails_its_own_request_only() -> None:
    with piling_up(NotFinite) as (_device, held, gate):
        good, bad = Ticket(1, 2, 3), Ticket(2, token=POISON)
        held.submit(good.job)
        held.submit(bad.job)
        gate.opened.set()
        good.assert_right()
        assert isinstance(bad.wait().error, InternalError)


def test_a_cancelled_request_is_not_computed() -> None:
    with piling_up() as (_device, held, gate):
        dropped, kept = Ticket(7, 8), Ticket(9)
        held.submit(dropped.job)
        held.submit(kept.job)
        held.cancel(dropped.job)
        assert held.queue.tokens == 9
        gate.opened.set()
        kept.assert_right()
        assert batches_after_the_first(held) == [[9]]
        assert dropped.times_done == 0


def test_what_is_left_of_a_cancelled_request_is_not_computed() -> None:
    with running() as device:
        gate = Gate()
        held = lane(device, FakeBackend(before_forward=gate), tokens=10)
        dropped, kept = Ticket(*[10] * 50), Ticket(9)
        held.submit(dropped.job)
        assert gate.held.wait(PATIENCE)
        held.cancel(dropped.job)
        held.submit(kept.job)
        gate.opened.set()
        kept.assert_right()
        assert batches_after_the_first(held) == [[9]]


def test_models_take_turns() -> None:
    served: list[str] = []
    with piling_up(tokens=10, then=lambda _: served.append("long")) as (device, held, gate):
        other = lane(device, FakeBackend(before_forward=lambda _: served.append("short")))
        long, short = Ticket(*[10] * 200), Ticket(1)
        held.submit(long.job)
        other.submit(short.job)
        gate.opened.set()
        short.assert_right()
        assert served.index("short") <= 2
        long.assert_right()


def test_a_task_comes_before_batches_that_wait() -> None:
    order: list[str] = []
    with piling_up(then=lambda _: order.append("batch")) as (device, held, gate):
        ticket = Ticket(1)
        held.submit(ticket.job)
        task = device.run(lambda: order.append("task"))
        gate.opened.set()
        task.result(PATIENCE)
        ticket.assert_right()
    assert order == ["batch", "task", "batch"]


def test_a_task_gives_its_result_or_its_error() -> None:
    with running() as device:
        assert device.run(lambda: 42).result(PATIENCE) == 42
        with pytest.raises(ZeroDivisionError):
            device.run(lambda: 1 / 0).result(PATIENCE)
        assert device.run(lambda: 43).result(PATIENCE) == 43


def test_a_worker_outlives_a_fault_of_the_one_who_waits() -> None:
    with running() as device:
        served = lane(device, FakeBackend())
        broken, after = Ticket(1, fails_at_done=True), Ticket(2)
        served.submit(broken.job)
        broken.wait()
        served.submit(after.job)
        after.assert_right()
        assert not device.fault


def test_a_fault_of_the_one_who_waits_does_not_touch_others_in_the_batch() -> None:
    with piling_up() as (_device, held, gate):
        broken, others = Ticket(1, fails_at_done=True), [Ticket(2), Ticket(3)]
        for ticket in (broken, *others):
            held.submit(ticket.job)
        gate.opened.set()
        for ticket in others:
            ticket.assert_right()


def test_a_stop_lets_the_batch_in_flight_finish_and_fails_what_waits() -> None:
    gate = Gate()
    device = Device(cpu_workers=1)
    device.start()
    held = lane(device, FakeBackend(before_forward=gate))
    in_flight, waiting = Ticket(1), [Ticket(2, 3), Ticket(4)]
    held.submit(in_flight.job)
    assert gate.held.wait(PATIENCE)
    for ticket in waiting:
        held.submit(ticket.job)
    stopping = threading.Thread(target=device.stop)
    stopping.start()
    until(lambda: device._stopping)
    gate.opened.set()
    stopping.join(PATIENCE)
    in_flight.assert_right()
    for ticket in waiting:
        assert isinstance(ticket.wait().error, ModelUnavailable)
        assert ticket.times_done == 1
    assert device.fault


def test_a_request_that_comes_after_the_stop_fails() -> None:
    with running() as device:
        served = lane(device, FakeBackend())
    late = Ticket(1)
    served.submit(late.job)
    until(lambda: late.times_done > 0)
    assert isinstance(late.job.error, ModelUnavailable)


@pytest.mark.parametrize(
    ("lengths", "batches"), [((100, 100), [[100], [100]]), ((10, 10), [[10, 10]])]
)
def test_idle_workers_share_what_is_worth_sharing(
    lengths: tuple[int, ...], batches: list[list[int]]
) -> None:
    with running(2) as device:
        served = lane(device, backend := FakeBackend())
        until(lambda: device.idle == 2)
        ticket = Ticket(*lengths)
        served.submit(ticket.job)
        ticket.assert_right()
    assert backend.batches == batches


def test_the_time_to_drain_follows_from_the_pace_so_far() -> None:
    idle = shared_lane({Device(cpu_workers=2): FakeBackend()}, 100)
    assert idle.seconds_to_drain == 1.0
    idle.queue.add(Ticket(300).job)
    idle.tokens_done, idle.seconds_busy = 50, 2.0
    assert idle.seconds_to_drain == 12.0


def test_an_accelerator_has_one_worker_and_sets_no_batch_size() -> None:
    device = Device("cuda:0", cpu_workers=4)
    assert (device.workers, device.batch_tokens(FakeBackend(), 5000)) == (1, 5000)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 4), ("150000 100000", 2), ("50000 100000", 1), ("800000 100000", 4)],
)
def test_a_containers_quota_bounds_the_cores(
    quota: str, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"{quota}\n")
    assert available_cores() == cores


@pytest.mark.parametrize(
    ("cores", "workers", "threads"),
    [(1, 1, 1), (2, 2, 1), (8, 8, 1), (9, 4, 2), (12, 6, 2), (16, 8, 2), (24, 8, 3), (64, 8, 8)],
)
def test_the_cores_are_shared_out_among_the_workers(
    cores: int, workers: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.engine.cores.available_cores", lambda: cores)
    device = Device()
    assert (device.workers, device.threads_per_worker) == (workers, threads)


def test_while_others_come_the_background_leaves_a_worker_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "TURN_SECONDS", PATIENCE)
    gate, marked, begun = threading.Event(), 7, []

    def hold(batch: Batch) -> None:
        if marked in batch.input_ids:
            begun.append(len(batch.input_ids))
            assert gate.wait(PATIENCE)

    with running(workers=2) as device:
        served = lane(device, FakeBackend(before_forward=hold))
        low = Ticket(*[100] * 40, token=marked)
        low.job.priority = "low"
        for ticket in (Ticket(5), low, Ticket(6), Ticket(7)):
            served.submit(ticket.job)
            if ticket is low:
                until(lambda: bool(begun))
            else:
                ticket.assert_right()  # though the background has work for every worker
        assert len(begun) == 1
        assert begun[0] < device.batch_tokens(served.backend, 1000) / 5
        gate.set()
        low.assert_right()
