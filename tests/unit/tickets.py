# SPDX-License-Identifier: Apache-2.0
"""Jobs to hand to a device, and devices to hand them to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from appliance.engine.copies import Copy
from appliance.engine.device import Device
from appliance.engine.jobs import Batch, Job
from appliance.engine.lane import Lane, Place
from appliance.engine.types import Output
from tests.fakes import FakeBackend, fake_scores, fake_sparse, fake_tokens, fake_vector

POISON = 666
PATIENCE = 10
"""Seconds after which something that should have happened never will."""


class Ticket:
    """A job, and what came of it.

    Args:
        lengths: Tokens of each text.
        token: The id that all its texts are made of.
        fails_at_done: Whether the one who waits for the job breaks when told.
        output: What is wanted of its texts.
        labels: How many scores are expected of each.
    """

    def __init__(
        self,
        *lengths: int,
        token: int = 5,
        fails_at_done: bool = False,
        output: Output = "dense",
        second_starts: Sequence[int] = (),
        labels: int = 0,
    ) -> None:
        self.times_done = 0
        self._fails_at_done = fails_at_done
        self._done = threading.Event()
        self._labels = labels
        self.job = Job(
            [np.full(n, token, dtype=np.int64) for n in lengths],
            self._told,
            output=output,
            second_starts=second_starts,
        )

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
        assert job.rows is not None
        assert len(job.rows) == len(job.texts)
        for number, (text, row) in enumerate(zip(job.texts, job.rows, strict=True)):
            if job.output == "sparse":
                expected = fake_sparse(text)
                np.testing.assert_array_equal(row.indices, expected.indices)
                np.testing.assert_array_equal(row.values, expected.values)
            elif job.output == "tokens":
                np.testing.assert_array_equal(row, fake_tokens(text))
            elif job.output == "dense":
                np.testing.assert_array_equal(row, fake_vector(text))
            else:
                start = job.second_starts[number] if job.second_starts else 0
                np.testing.assert_array_equal(row, fake_scores(text, self._labels, start))


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
    return shared_lane({device: backend}, tokens, texts)


def shared_lane(
    backends: Mapping[Device, FakeBackend], tokens: int, texts: int | None = None
) -> Lane:
    """A model that has its weights on some devices for good."""
    first = next(iter(backends))
    added = Lane("fake", first.lock, tokens, texts)
    for device, backend in backends.items():
        copy = Copy("fake", {}, added.demand, tier="device")
        added.places[device] = Place(copy, lambda: FakeBackend())
        added.install(device, backend)
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
        held.submit(first.job)
        assert gate.held.wait(PATIENCE)
        try:
            yield device, held, gate
        finally:
            gate.opened.set()


def refuse_poison(batch: Batch) -> None:
    if POISON in batch.input_ids:
        raise ValueError("a bad text")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
