# SPDX-License-Identifier: Apache-2.0
"""Points on disk, and the recorder that has them written."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import stat
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from appliance.access.store import TokenStore
from appliance.database_file import database_file
from appliance.errors import StoreUnavailable
from appliance.series import recorder as recording
from appliance.series.histogram import BUCKETS
from appliance.series.history import FINE_STEP, HOUR, History
from appliance.series.recorder import Recorder
from appliance.series.schema import metadata
from appliance.series.store import SCHEMA, SeriesStore
from appliance.settings import Settings
from appliance.telemetry.records import RequestRecord
from tests.unit.test_series import START, Hands, counted, values


def record(history: History, hands: Hands, samples: int = 1) -> None:
    for _ in range(samples):
        hands.pass_(FINE_STEP)
        history.add({"rate": 10.0}, {}, counted(5.0))


async def opened(folder: Path) -> SeriesStore:
    store = SeriesStore(folder)
    await store.migrate()
    return store


async def eventually(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  # no event
        await asyncio.sleep(0.01)


async def test_points_outlive_the_process(tmp_path: Path) -> None:
    hands = Hands()
    history = History(["rate"], hands.clock())
    store = await opened(tmp_path / "made")
    record(history, hands, 12)
    await store.write(history, hands.wall)
    record(history, hands, 6)
    await store.write(history, hands.wall)
    await store.close()
    assert stat.S_IMODE(database_file(tmp_path / "made").stat().st_mode) == 0o600

    hands.pass_(30)
    store = await opened(tmp_path / "made")
    again = History(["rate"], hands.clock())
    again.restore(await store.read(hands.wall))
    assert values(again, 300, "rate")[-25:] == [None] + [2.0] * 18 + [None] * 6
    assert again.read(300).points.latencies.sum() == 18
    assert again.take_unwritten() == [], "what is on disk need not be written"
    await store.close()


async def test_what_is_too_old_is_forgotten(tmp_path: Path) -> None:
    hands = Hands()
    history = History(["rate"], hands.clock())
    store = await opened(tmp_path)
    for _ in range(3):
        record(history, hands, 2)
        await store.write(history, hands.wall)
        hands.pass_(HOUR)
    rows = await store.read(hands.wall)
    assert sorted({step for step, _, _ in rows}) == [5, 60]
    assert min(begins for step, begins, _ in rows if step == FINE_STEP) > START + HOUR
    assert min(begins for step, begins, _ in rows if step == 60) == START
    await store.close()


async def test_a_row_of_another_version_is_left_out(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    with sqlite3.connect(database_file(tmp_path)) as connection:
        connection.execute("INSERT INTO series_points VALUES (5, ?, ?)", (START, b"\xc1 what"))
    connection.close()
    assert await store.read(START + 1) == []
    await store.close()


async def test_the_migration_makes_the_table_that_the_code_expects(tmp_path: Path) -> None:
    def difference(connection: Connection) -> list[object]:
        options = {"version_table": SCHEMA.version_table, "compare_type": False}
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, metadata))

    store = await opened(tmp_path)
    async with store.database.engine.connect() as connection:
        assert await connection.run_sync(difference) == []
    await store.close()


async def test_tokens_and_series_share_a_file(tmp_path: Path) -> None:
    tokens = TokenStore(Settings(data_dir=tmp_path))
    series = SeriesStore(tmp_path)
    await asyncio.gather(tokens.migrate(), series.migrate())
    assert await tokens.create_first()
    hands = Hands()
    history = History(["rate"], hands.clock())
    record(history, hands)
    await series.write(history, hands.wall)
    assert len(await tokens.list_all()) == 1
    assert len(await series.read(hands.wall)) == 2
    await tokens.close()
    await series.close()


async def test_a_fault_of_the_database_costs_a_line_of_the_log_and_no_point(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hands = Hands()
    history = History(["rate"], hands.clock())
    store = await opened(tmp_path)
    with sqlite3.connect(database_file(tmp_path)) as connection:
        connection.execute("ALTER TABLE series_points RENAME TO away")
    for _ in range(3):
        record(history, hands)
        with pytest.raises(StoreUnavailable):
            await store.write(history, hands.wall)
    assert len([r for r in caplog.records if "the database of series" in r.getMessage()]) == 1
    with connection:
        connection.execute("ALTER TABLE away RENAME TO series_points")
    connection.close()
    await store.write(history, hands.wall)
    assert len([row for row in await store.read(hands.wall) if row[0] == FINE_STEP]) == 3
    await store.close()


async def test_a_recorder_counts_requests_and_keeps_them_when_it_stops(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, lambda: 7)
    recorder.start()
    while not recorder.is_keeping:  # noqa: ASYNC110  # no event
        await asyncio.sleep(0.01)
    for status, seconds in ((200, 0.01), (200, 0.02), (429, 0.001), (503, 9.0), (499, 1.0)):
        recorder.note(RequestRecord("/v1/embeddings", "m", status, seconds, 5 * (status == 200)))
    await recorder.stop()
    store = await opened(tmp_path)
    rows = await store.read(time.time())
    await store.close()
    totals: dict[str, float] = {}
    latencies = np.zeros(BUCKETS, dtype=np.uint32)
    for step, _, row in rows:
        if step == FINE_STEP:
            for column, amount in row.amounts.items():
                totals[column] = totals.get(column, 0) + amount
            for bucket, count in row.latencies.items():
                latencies[bucket] += count
    assert totals["requests.answered"] == pytest.approx(2)
    assert totals["requests.refused"] == pytest.approx(2)
    assert totals["requests.failed"] == pytest.approx(1)
    assert totals["tokens.tokens"] == pytest.approx(10)
    assert (latencies == counted(10, 20)).all()
    assert totals["queue.tokens"] > 0
    assert totals["memory.process"] > 0


async def test_of_two_servers_on_one_folder_one_keeps_its_series_until_it_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, recording.__name__)
    monkeypatch.setattr(recording, "MINUTE", 0.05)
    one, two = (Recorder(tmp_path, lambda: 0) for _ in range(2))
    one.start()
    await eventually(lambda: one.is_keeping)
    two.start()
    await eventually(lambda: "another server keeps its time series" in caplog.text)
    assert not two.is_keeping
    await one.stop()
    await eventually(lambda: two.is_keeping)
    await two.stop()
    assert not (tmp_path / "series.lock").exists()


async def test_a_recorder_goes_on_where_nothing_can_be_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    recorder = Recorder(tmp_path / "file" / "folder", lambda: 0)
    recorder.start()
    while not caplog.records:  # noqa: ASYNC110  # no event
        await asyncio.sleep(0.01)
    await recorder.sample()
    assert not recorder.is_keeping
    await recorder.stop()
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == ["the database of series"]
