# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import gc
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from appliance.bulk import job, parts, progress
from appliance.bulk.ahead import read_ahead
from appliance.bulk.chunks import Chunk, Todo, chain_digest
from appliance.bulk.embedder import Embedded
from appliance.bulk.faults import BulkFault
from appliance.bulk.folder import Manifest, WorkFolder
from appliance.bulk.job import Job
from appliance.bulk.parts import PartWriter
from appliance.bulk.progress import Meter, show_progress
from appliance.bulk.signals import stop_on_signals


class Inert:
    """A display that shows nothing."""

    def show(self, meter: Meter) -> None:
        pass


class Embedder:
    """Answers at once, or when told to."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.may_answer = asyncio.Event()
        self.started = 0
        if at_once:
            self.may_answer.set()

    async def embed(self, chunk: Chunk) -> Embedded:
        self.started += 1
        await self.may_answer.wait()
        count = len(chunk.texts)
        return Embedded(np.ones((count, 2), np.float32), np.zeros(count, np.bool_), tokens=1)


def todo(number: int, size: int = 10) -> Todo:
    rows = pa.record_batch([[f"text {number}"]], names=["text"])
    return Todo(Chunk(rows, ["text"], [number + 1], size, number + 1), bytes([number % 256]))


@pytest.fixture
def writer(tmp_path: Path) -> PartWriter:
    folder = WorkFolder(tmp_path / "out.npy")
    folder.path.mkdir()
    return PartWriter(folder, Manifest({}, [1.0], truncate=True, on_error="fail"))


def make(writer: PartWriter, embedder: Embedder) -> Job:
    return Job(embedder, writer, Meter(None), Inert())  # type: ignore[arg-type]


async def settle() -> None:
    """Let every task and thread get as far as it can."""
    for _ in range(50):
        await asyncio.sleep(0.005)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # what it waits for knows nothing of events
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(("size", "most"), [(10, 8), (2**24, 2), (2**30, 1)])
async def test_no_more_is_read_than_is_needed(size: int, most: int, writer: PartWriter) -> None:
    read = []

    def endless() -> Iterator[Todo]:
        while True:
            read.append(len(read))
            yield todo(read[-1], size)

    embedder = Embedder(at_once=False)
    running = asyncio.create_task(make(writer, embedder).run(endless()))
    await until(lambda: embedder.started >= most)
    await settle()
    assert embedder.started == most
    assert len(read) <= most + job.CHUNKS_READ_AHEAD + 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_quick_device_gets_more_at_once(writer: PartWriter) -> None:
    embedder = Embedder()
    running = make(writer, embedder)
    await running.run(todo(number) for number in range(200))
    assert writer.kept.rows == 200
    embedder.may_answer.clear()
    embedder.started = 0
    again = asyncio.create_task(running._feed(todo(number) for number in range(1000)))
    await until(lambda: embedder.started > 100)
    await settle()
    assert embedder.started <= job.MOST_IN_FLIGHT
    again.cancel()
    for task in running._tasks:
        task.cancel()


async def test_rows_before_a_fault_of_the_input_are_kept(writer: PartWriter) -> None:
    def broken() -> Iterator[Todo]:
        for number in range(5):
            yield todo(number)
        raise BulkFault("line 6 is broken")

    with pytest.raises(BulkFault, match="line 6"):
        await make(writer, Embedder()).run(broken())
    assert writer.kept.rows == 5


async def test_finished_rows_are_written_while_the_input_pauses(
    writer: PartWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(parts, "LEAST_PART_SECONDS", 0.02)
    more = threading.Event()

    def pausing() -> Iterator[Todo]:
        yield todo(0)
        more.wait()
        yield todo(1)

    running = asyncio.create_task(make(writer, Embedder()).run(pausing()))
    await until(lambda: writer.kept.rows == 1)
    more.set()
    await running
    assert (writer.kept.rows, writer.kept.parts) == (2, 2)


async def test_many_rows_are_written_without_delay(
    writer: PartWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 100)
    monkeypatch.setattr(parts, "LEAST_PART_SECONDS", 10**6)
    await make(writer, Embedder()).run(todo(number) for number in range(100))
    assert 10 < writer.kept.parts < 100


async def test_a_folder_that_cannot_be_written_ends_the_work(
    writer: PartWriter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(WorkFolder, "add_part", full)
    endless = (todo(number) for number in iter(int, 1))
    with pytest.raises(OSError, match="No space left"):
        await make(writer, Embedder()).run(endless)
    assert writer.kept.rows == 0
    gc.collect()
    assert not caplog.records  # such as that a future's exception was never retrieved


async def test_reading_ends_with_the_one_who_reads() -> None:
    """Its thread does not go on behind the back of whoever left."""
    taken = []

    def numbers() -> Iterator[int]:
        for number in range(10**9):
            taken.append(number)
            yield number

    ahead = read_ahead(numbers(), 3)
    assert [await anext(ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
    await ahead.aclose()
    await until(lambda: "read" not in {thread.name for thread in threading.enumerate()})
    assert len(taken) <= 9


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_breaks_into_no_step_of_the_event_loop(number: signal.Signals) -> None:
    """Between two lines of a task, rows may have been gathered that are not yet counted."""
    before = signal.getsignal(number)
    try:
        with stop_on_signals() as stop:
            cancelled: list[int] = []
            stop.cancel = lambda: cancelled.append(1)
            signal.raise_signal(number)
            assert (cancelled, stop.signal) == ([1], number)
            assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_ends_what_does_not_run_in_an_event_loop() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt), stop_on_signals():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_was_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            signal.raise_signal(signal.SIGINT)
        assert stop.signal == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_digest_is_of_values_alone() -> None:
    def digest(values: list[int], nulls: list[bool], name: str = "x", before: bytes = b"") -> bytes:
        column = pa.array(np.array(values), mask=np.array(nulls))
        return chain_digest(before, pa.record_batch([column], names=[name]))

    first = digest([1, 2, 3], [False, True, False])
    assert first == digest([1, 9, 3], [False, True, False])  # 9 lies behind a null
    assert first == digest([1, 2, 3], [False, True, False], "y")  # names are in the footer
    assert first != digest([1, 2, 3], [False, False, False])
    assert first != digest([1, 2, 3], [True, False, False])
    assert first != digest([1, 2, 4], [False, True, False])
    assert first != digest([1, 2, 3], [False, True, False], before=first)


def test_a_meter_tells_rates_of_its_own_run() -> None:
    now = [100.0]
    meter = Meter(1000, position=200, rows=20, clock=lambda: now[0])
    assert meter.seconds_left is None
    now[0] += 10
    meter.add(rows=40, tokens=5000, position=600)
    assert (meter.rows, meter.share, meter.seconds_left) == (60, 0.6, 10.0)
    assert meter.rates == "4 rows/s, 500 tokens/s"
    assert meter.summary == "; 20 by earlier runs; 5,000 tokens in 10.0 s: 4 rows/s, 500 tokens/s"
    assert Meter(None).share is Meter(0).share is None


def test_the_log_tells_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    with caplog.at_level(logging.INFO), show_progress("info") as display:
        meter = Meter(100)
        meter.add(rows=1500, tokens=10, position=50)
        time.sleep(0.001)
        display.show(meter)
        monkeypatch.setattr(progress, "LOG_SECONDS", 10**6)
        display.show(meter)
        display.show(meter)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith("1,500 rows (50%), ")
    assert told[0].endswith(" left")
