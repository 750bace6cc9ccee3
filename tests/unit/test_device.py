# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.engine.device import Device, Lane, available_cores
from appliance.engine.types import Batch, FloatMatrix, Job
from appliance.errors import InternalError, ModelUnavailable
from tests.fakes import FakeBackend, fake_vector

POISON = 666
PATIENCE = 10
"""Seconds after which something that should have happened never will."""


class Ticket:
    """A job, and what came of it.

    Args:
        lengths: Tokens of each text.
        token: The id that all its texts are made of.
        fails_at_done: Whether the one who waits for the job breaks when told.
    """

    def __init__(self, *lengths: int, token: int = 5, fails_at_done: bool = False) -> None:
        self.times_done = 0
        self._fails_at_done = fails_at_done
        self._done = threading.Event()
        self.job = Job([np.full(n, token, dtype=np.int64) for n in lengths], self._told)

    def _told(self, job: Job) -> None:
        self.times_done += 1
        self._done.set()
        if self._fails_at_done:
            raise RuntimeError("nobody is there any more")

    def wait(self) -> Job:
        assert self._done.wait(PATIENCE), "the job was never answered"
        return self.job

    def assert_right(self) -> None:
        job = self.wait()
        assert job.error is None
        assert job.vectors is not None
        np.testing.assert_array_equal(job.vectors, [fake_vector(text) for text in job.texts])


class Gate:
    """Holds a backend in the middle of its first batch, while the test lets work pile up."""

    def __init__(self, then: Callable[[Batch], None] = lambda _: None) -> None:
        self.held = threading.Event()
        self.opened = threading.Event()
        self._then = then

    def __call__(self, batch: Batch) -> None:
        self.held.set()
        assert self.opened.wait(PATIENCE)
        self._then(batch)


@contextmanager
def running(workers: int = 1) -> Iterator[Device]:
    device = Device(cpu_workers=workers)
    device.start()
    try:
        yield device
    finally:
        device.stop()


def lane(device: Device, backend: FakeBackend, *, tokens: int = 1000, texts: Any = None) -> Lane:
    added = Lane("fake", device, backend, tokens, texts)
    device.add(added)
    return added


@contextmanager
def piling_up(
    backend: Callable[..., FakeBackend] = FakeBackend,
    then: Callable[[Batch], None] = lambda _: None,
    **limits: Any,
) -> Iterator[tuple[Device, Lane, Gate]]:
    """A device whose one worker is held, so that what is submitted now forms the next batch."""
    gate = Gate(then)
    with running() as device:
        held = lane(device, backend(before_forward=gate), **limits)
        first = Ticket(1)
        device.submit(held, first.job)
        assert gate.held.wait(PATIENCE)
        try:
            yield device, held, gate
        finally:
            gate.opened.set()


def refuse_poison(batch: Batch) -> None:
    if POISON in batch.input_ids:
        raise ValueError("a bad text")


def batches_after_the_first(held: Lane) -> list[list[int]]:
    assert isinstance(held.backend, FakeBackend)
    return held.backend.batches[1:]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


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
            device.submit(served, ticket.job)
        for ticket in tickets:
            ticket.assert_right()
    assert [ticket.times_done for ticket in tickets] == [1] * len(tickets)


def test_texts_of_different_requests_share_a_batch_in_order_of_length() -> None:
    with piling_up() as (device, held, gate):
        tickets = [Ticket(30), Ticket(10, 20), Ticket(5)]
        for ticket in tickets:
            device.submit(held, ticket.job)
        gate.opened.set()
        for ticket in tickets:
            ticket.assert_right()
        assert batches_after_the_first(held) == [[5, 10, 20, 30]]


@pytest.mark.parametrize(
    ("limits", "batches"), [({"tokens": 20}, [[10, 10], [10]]), ({"texts": 1}, [[10], [10], [10]])]
)
def test_a_batch_keeps_the_models_limits(limits: dict[str, int], batches: list[list[int]]) -> None:
    with piling_up(**limits) as (device, held, gate):
        ticket = Ticket(10, 10, 10)
        device.submit(held, ticket.job)
        gate.opened.set()
        ticket.assert_right()
        assert batches_after_the_first(held) == batches


def test_a_bad_text_fails_its_own_request_only() -> None:
    with piling_up(then=refuse_poison) as (device, held, gate):
        good, bad = [Ticket(n, n + 1) for n in range(1, 6)], Ticket(3, 4, token=POISON)
        for ticket in (*good[:3], bad, *good[3:]):
            device.submit(held, ticket.job)
        gate.opened.set()
        for ticket in good:
            ticket.assert_right()
        assert isinstance(bad.wait().error, InternalError)
        assert bad.times_done == 1


def test_what_is_left_of_a_failed_request_is_not_computed() -> None:
    with piling_up(tokens=10, then=refuse_poison) as (device, held, gate):
        bad, good = Ticket(*[10] * 50, token=POISON), Ticket(9)
        device.submit(held, bad.job)
        device.submit(held, good.job)
        gate.opened.set()
        good.assert_right()
        until(lambda: not held.queue.tokens)
        assert len(batches_after_the_first(held)) == 2


def test_a_fault_is_told_without_its_details() -> None:
    with piling_up(then=refuse_poison) as (device, held, gate):
        bad = Ticket(3, token=POISON)
        device.submit(held, bad.job)
        gate.opened.set()
        assert "bad text" not in str(bad.wait().error)


def test_a_batch_too_large_for_the_memory_is_halved_until_it_fits() -> None:
    def out_of_memory(batch: Batch) -> None:
        if len(batch) > 2:
            raise MemoryError

    with piling_up(then=out_of_memory) as (device, held, gate):
        ticket = Ticket(*range(1, 10))
        device.submit(held, ticket.job)
        gate.opened.set()
        ticket.assert_right()


class NotFinite(FakeBackend):
    """Gives no number for poisoned texts."""

    def forward(self, batch: Batch) -> FloatMatrix:
        vectors = super().forward(batch)
        vectors[batch.input_ids[batch.cu_seqlens[:-1]] == POISON, 3] = np.nan
        return vectors


def test_a_vector_that_is_not_finite_fails_its_own_request_only() -> None:
    with piling_up(NotFinite) as (device, held, gate):
        good, bad = Ticket(1, 2, 3), Ticket(2, token=POISON)
        device.submit(held, good.job)
        device.submit(held, bad.job)
        gate.opened.set()
        good.assert_right()
        assert isinstance(bad.wait().error, InternalError)


def test_a_cancelled_request_is_not_computed() -> None:
    with piling_up() as (device, held, gate):
        dropped, kept = Ticket(7, 8), Ticket(9)
        device.submit(held, dropped.job)
        device.submit(held, kept.job)
        device.cancel(held, dropped.job)
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
        device.submit(held, dropped.job)
        assert gate.held.wait(PATIENCE)
        device.cancel(held, dropped.job)
        device.submit(held, kept.job)
        gate.opened.set()
        kept.assert_right()
        assert batches_after_the_first(held) == [[9]]


def test_models_take_turns() -> None:
    served: list[str] = []
    with piling_up(tokens=10, then=lambda _: served.append("long")) as (device, held, gate):
        other = lane(device, FakeBackend(before_forward=lambda _: served.append("short")))
        long, short = Ticket(*[10] * 200), Ticket(1)
        device.submit(held, long.job)
        device.submit(other, short.job)
        gate.opened.set()
        short.assert_right()
        assert served.index("short") <= 2
        long.assert_right()


def test_a_task_comes_before_batches_that_wait() -> None:
    order: list[str] = []
    with piling_up(then=lambda _: order.append("batch")) as (device, held, gate):
        ticket = Ticket(1)
        device.submit(held, ticket.job)
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
        device.submit(served, broken.job)
        broken.wait()
        device.submit(served, after.job)
        after.assert_right()
        assert device.alive


def test_a_fault_of_the_one_who_waits_does_not_touch_others_in_the_batch() -> None:
    with piling_up() as (device, held, gate):
        broken, others = Ticket(1, fails_at_done=True), [Ticket(2), Ticket(3)]
        for ticket in (broken, *others):
            device.submit(held, ticket.job)
        gate.opened.set()
        for ticket in others:
            ticket.assert_right()


def test_a_stop_lets_the_batch_in_flight_finish_and_fails_what_waits() -> None:
    gate = Gate()
    device = Device(cpu_workers=1)
    device.start()
    held = lane(device, FakeBackend(before_forward=gate))
    in_flight, waiting = Ticket(1), [Ticket(2, 3), Ticket(4)]
    device.submit(held, in_flight.job)
    assert gate.held.wait(PATIENCE)
    for ticket in waiting:
        device.submit(held, ticket.job)
    stopping = threading.Thread(target=device.stop)
    stopping.start()
    until(lambda: device._stopping)
    gate.opened.set()
    stopping.join(PATIENCE)
    in_flight.assert_right()
    for ticket in waiting:
        assert isinstance(ticket.wait().error, ModelUnavailable)
        assert ticket.times_done == 1
    assert not device.alive


def test_a_request_that_comes_after_the_stop_fails() -> None:
    with running() as device:
        served = lane(device, FakeBackend())
    late = Ticket(1)
    device.submit(served, late.job)
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
        until(lambda: device._idle == 2)
        ticket = Ticket(*lengths)
        device.submit(served, ticket.job)
        ticket.assert_right()
    assert backend.batches == batches


def test_the_time_to_drain_follows_from_the_pace_so_far() -> None:
    idle = Lane("fake", Device(cpu_workers=2), FakeBackend(), 100, None)
    assert idle.seconds_to_drain == 1.0
    idle.queue.add(Ticket(300).job)
    idle.tokens_done, idle.seconds_busy = 50, 2.0
    assert idle.seconds_to_drain == 6.0


def test_an_accelerator_has_one_worker_and_sets_no_batch_size() -> None:
    device = Device("cuda:0", cpu_workers=4)
    assert (device.workers, device.max_batch_tokens) == (1, None)


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
