# SPDX-License-Identifier: Apache-2.0
"""Batches under kills, stops, full disks and other processes: no row is lost or doubled."""

from __future__ import annotations

import json
import random
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from openai.types import Batch

from appliance.batches import rows, worker
from appliance.batches.part import Answer, Part, expired_row, row
from appliance.errors import ApplianceError, Overloaded
from appliance.settings import ModelSettings
from tests.api.batching import (
    MODEL,
    assert_right,
    begin,
    client_of,
    end,
    keeping,
    line,
    lines_of,
    rows_of,
    wait_for,
)
from tests.conftest import REAL_MODEL, RunningServer, run_in_thread, run_process
from tests.fakes import FakeBackend, loading
from tests.unit.tickets import Gate, until

# In a process of its own, that can be killed; a forward pass takes a little.
SERVE = """
import sys, time
import uvicorn
from appliance.app import create_app
from appliance.batches import running, worker
from appliance.bounded_http import BoundedHttp
from appliance.logs import configure_logging
from appliance.settings import ModelSettings, Settings
from tests.fakes import FakeBackend, loading

running.BEAT_SECONDS, worker.LEASE_SECONDS = 0.2, 2.0
settings = Settings(models=(ModelSettings(model="fake/model"),), data_dir=sys.argv[1])
slow = loading(lambda _: FakeBackend(before_forward=lambda _: time.sleep(float(sys.argv[2]))))
uvicorn.run(create_app(settings, slow), port=0, http=BoundedHttp, access_log=False, ws="none")
"""


@contextmanager
def serving(folder: Path, seconds: float = 0.2) -> Iterator[RunningServer]:
    with run_process(str(folder), str(seconds), code=SERVE) as server:
        yield server


def done(batch: Batch) -> int:
    assert batch.request_counts is not None
    return batch.request_counts.completed


def part_of(folder: Path, batch: Batch) -> Path:
    return folder / "files" / f"{batch.id}.part"


def rows_in(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def kill_half_way(
    server: RunningServer, folder: Path, batch: Batch, rows: int, number: int = signal.SIGKILL
) -> list[bytes]:
    """End a server once it has written more rows than so many; those that it has."""
    assert server.process is not None
    part = part_of(folder, batch)
    until(lambda: len(rows_in(part)) > rows)
    server.process.send_signal(number)
    server.process.wait(30)
    return [row for row in rows_in(part) if row.endswith(b"\n")]


def test_a_kill_loses_and_doubles_nothing(tmp_path: Path) -> None:
    count = 4000
    bad = set(range(0, count, 100))
    content = lines_of(*(line(n, input="") if n in bad else line(n) for n in range(count)))
    before: list[bytes] = []
    with serving(tmp_path) as server:
        batch = begin(client_of(server), content)
        before = kill_half_way(server, tmp_path, batch, 0)
    for _ in range(2):
        with serving(tmp_path) as server:
            found = kill_half_way(server, tmp_path, batch, len(before))
        assert found[: len(before)] == before, "what was done is not done again"
        before = found
    with serving(tmp_path, 0) as server:
        client = client_of(server)
        batch = end(client, batch)
        assert batch.status == "completed"
        assert batch.request_counts is not None
        assert batch.request_counts.model_dump() == {
            "total": count,
            "completed": count - len(bad),
            "failed": len(bad),
        }
        assert batch.usage is not None
        assert batch.usage.total_tokens == 4 * (count - len(bad))
        good = rows_of(client, batch.output_file_id)
        assert_right(good, [n for n in range(count) if n not in bad])
        errors = rows_of(client, batch.error_file_id)
        assert [row["custom_id"] for row in errors] == [f"request-{n}" for n in sorted(bad)]
        kept = {json.loads(row)["id"] for row in before}
        assert kept <= {row["id"] for row in (*good, *errors)}
    assert not part_of(tmp_path, batch).exists()


def test_a_stop_comes_at_once_and_the_next_start_goes_on(tmp_path: Path) -> None:
    count = 3000
    with serving(tmp_path, 0.2) as server:
        batch = begin(client_of(server), lines_of(*map(line, range(count))))
        before = kill_half_way(server, tmp_path, batch, 0, signal.SIGTERM)
        assert server.process is not None
        assert server.process.returncode in (0, -signal.SIGTERM)
    assert 0 < len(before) < count
    with serving(tmp_path, 0) as server:
        client = client_of(server)
        batch = end(client, batch)
        found = rows_of(client, batch.output_file_id)
    assert_right(found, range(count))
    assert [json.loads(row)["id"] for row in before] == [row["id"] for row in found[: len(before)]]


@pytest.mark.slow
def test_the_real_model_after_a_kill(tmp_path: Path) -> None:
    generator = random.Random(0)
    words = [f"w{n}" for n in range(500)]
    texts = [[" ".join(generator.choices(words, k=8)) for _ in range(4)] for _ in range(400)]
    content = lines_of(*(line(n, model=REAL_MODEL, input=some) for n, some in enumerate(texts)))
    flags = ("--data-dir", str(tmp_path))
    with run_process(*flags) as server:
        batch = begin(client_of(server), content)
        before = kill_half_way(server, tmp_path, batch, 40)
    assert len(before) < len(texts)
    with run_process(*flags) as server:
        client = client_of(server)
        batch = end(client, batch, 120)
        found = rows_of(client, batch.output_file_id)
        assert [row["custom_id"] for row in found] == [f"request-{n}" for n in range(len(texts))]
        for number in (0, len(before) - 1, len(before), len(texts) - 1):
            expected = server.embed(model=REAL_MODEL, input=texts[number]).json()["data"]
            data = found[number]["response"]["body"]["data"]
            assert [item["index"] for item in data] == [0, 1, 2, 3]
            np.testing.assert_allclose(
                [item["embedding"] for item in data],
                [item["embedding"] for item in expected],
                atol=1e-5,
            )


def test_files_that_may_not_grow_hold_a_batch_up_and_lose_nothing(tmp_path: Path) -> None:
    count = 2000
    with serving(tmp_path, 0) as server:
        assert server.process is not None
        client = client_of(server)
        content = lines_of(*map(line, range(count)))
        limit = (len(content) + 100_000, resource.RLIM_INFINITY)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limit)
        batch = begin(client, content)
        part = part_of(tmp_path, batch)
        until(lambda: part.exists() and part.stat().st_size == limit[0])
        assert client.batches.retrieve(batch.id).status == "in_progress"
        resource.prlimit(
            server.process.pid,
            resource.RLIMIT_FSIZE,
            (resource.RLIM_INFINITY, resource.RLIM_INFINITY),
        )
        batch = end(client, batch)
        assert_right(rows_of(client, batch.output_file_id), range(count))


def test_of_two_processes_one_has_a_batch_and_the_other_takes_over(tmp_path: Path) -> None:
    count = 6000
    with serving(tmp_path, 0.4) as first:
        client = client_of(first)
        batch = begin(client, lines_of(*map(line, range(count))))
        wait_for(client, batch.id, lambda batch: batch.status == "in_progress")
        with serving(tmp_path, 0) as second:
            client = client_of(second)
            found = kill_half_way(first, tmp_path, batch, len(rows_in(part_of(tmp_path, batch))))
            assert found
            assert len(found) < count, "the second, which is faster, has kept off"
            batch = end(client, batch)
            assert_right(rows_of(client, batch.output_file_id), range(count))


def test_a_process_that_was_held_up_does_not_write_beside_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its lease is over, but its lock is not: the other waits."""
    monkeypatch.setattr(worker, "LEASE_SECONDS", 0.2)
    monkeypatch.setattr(worker, "LOOK_SECONDS", 0.05)
    count = 1500
    with serving(tmp_path, 0.3) as first:
        assert first.process is not None
        client = client_of(first)
        batch = begin(client, lines_of(*map(line, range(count))))
        until(lambda: len(rows_in(part_of(tmp_path, batch))) > 0)
        first.process.send_signal(signal.SIGSTOP)
        try:
            with run_in_thread(keeping(tmp_path)) as second:
                client = client_of(second)
                until(lambda: "another process has not let go of it yet" in caplog.text)
                first.process.send_signal(signal.SIGCONT)
                batch = end(client, batch)
                assert_right(rows_of(client, batch.output_file_id), range(count))
        finally:
            first.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_kill_while_the_results_are_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """As it leaves the folder and the database at each step."""
    monkeypatch.setattr(worker, "LOOK_SECONDS", 0.05)
    right_move = Part.turn_into
    calls = 0

    def move(self: Part, *arguments: object) -> None:
        nonlocal calls
        calls += 1
        if moment != "before" or calls > 1:
            right_move(self, *arguments)  # type: ignore[arg-type]
        if calls == 1:
            raise OSError("killed")

    if moment != "after":
        monkeypatch.setattr(Part, "turn_into", move)
    else:
        right_remove = Part.remove

        def remove(self: Part) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise OSError("killed")
            right_remove(self)

        monkeypatch.setattr(Part, "remove", remove)
    content = lines_of(*map(line, range(10)), line(10, input=""))
    with run_in_thread(keeping(tmp_path)) as server:
        client = client_of(server)
        batch = end(client, begin(client, content))
        assert batch.status == "completed"
        assert_right(rows_of(client, batch.output_file_id), range(10))
        assert len(rows_of(client, batch.error_file_id)) == 1
        assert len(client.files.list().data) == 3
    with run_in_thread(keeping(tmp_path)):
        until(lambda: not part_of(tmp_path, batch).exists())


@pytest.mark.parametrize(
    "tail", [b"", b'{"id":"batch_req_', b'{"id":"x"}\n', b"\0" * 100, b"\0" * 100 + b"\n", b"[]\n"]
)
def test_a_part_is_cut_back_to_its_whole_rows(tmp_path: Path, tail: bytes) -> None:
    body = b'{"data":[],"usage":{"prompt_tokens":7}}'
    whole = [
        row("a", Answer(200, body)),
        row("b", Answer(400, b'{"error":{}}')),
        expired_row("c"),
    ]
    path = tmp_path / "x.part"
    path.write_bytes(b"".join(whole) + tail)
    part = Part(path)
    tally = part.open()
    assert (tally.completed, tally.failed, tally.tokens) == (1, 2, 7)
    part.append(whole[0])
    part.close()
    assert path.read_bytes() == b"".join([*whole, whole[0]])


def test_what_is_overloaded_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[ApplianceError] = []

    def pause(error: ApplianceError) -> float:
        told.append(error)
        return 0.1

    monkeypatch.setattr(rows, "_pause", pause)
    gate = Gate()
    load = loading(lambda _: FakeBackend(before_forward=gate))
    models = (ModelSettings(model=MODEL, max_batch_requests=1, max_queue_seconds=0.1),)
    with run_in_thread(keeping(tmp_path, cpu_workers=1, models=models), load) as server:
        assert server.engine is not None
        client = client_of(server)
        model = server.engine.models[0]
        batch = begin(client, lines_of(*map(line, range(200))))
        assert gate.held.wait(30)
        until(lambda: len(told) > 100)
        assert {type(error) for error in told} == {Overloaded}
        model.settings = model.settings.model_copy(update={"max_queue_seconds": 10.0})
        gate.opened.set()
        batch = end(client, batch)
        assert_right(rows_of(client, batch.output_file_id), range(200))


def test_live_requests_keep_half_of_the_places(tmp_path: Path) -> None:
    gate = Gate()
    load = loading(lambda _: FakeBackend(before_forward=gate))
    models = (ModelSettings(model=MODEL, max_concurrent_requests=4),)
    with run_in_thread(keeping(tmp_path, cpu_workers=1, models=models), load) as server:
        assert server.engine is not None
        client = client_of(server)
        batch = begin(client, lines_of(*map(line, range(50))))
        assert gate.held.wait(30)
        assert server.engine.models[0].requests <= 2
        gate.opened.set()
        assert done(end(client, batch)) == 50
