# SPDX-License-Identifier: Apache-2.0
"""A run that ended at any moment is gone on with as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from appliance import durable
from appliance.bulk import parts
from appliance.bulk.folder import Manifest
from appliance.durable import AlreadyLocked, hold_lock
from appliance.engine.jobs import Batch
from tests import fakes
from tests.bulk.helpers import (
    SETTINGS,
    assert_vectors,
    embed,
    read_manifest,
    read_rows,
    rows_done,
    work_folder,
    write_lines,
)
from tests.fakes import fake_vector
from tests.processes import forks

OUTPUTS = ["out.jsonl", "out.parquet", "out.npy"]


class Killed(BaseException):
    """The process is gone."""


class Undertaker:
    """Ends a run at its Nth step that changes what is on disk; no step after it happens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        self._last: int | None = None
        for owner, name in (
            (os, "fsync"),
            (Path, "replace"),
            (Path, "unlink"),
            (Path, "rmdir"),
            (Path, "mkdir"),
        ):
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name)))

    def _wrapped(self, function: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            self.steps += 1
            if self._last is not None and self.steps > self._last:
                raise Killed
            return function(*arguments, **options)

        return step

    @contextmanager
    def kill_after(self, steps: int) -> Iterator[None]:
        self.steps, self._last = 0, steps
        try:
            yield
        finally:
            self._last = None


@pytest.fixture
def every_chunk_is_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "LEAST_PART_SECONDS", 0.0)
    monkeypatch.setattr(parts, "MOST_PART_SECONDS", 0.0)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.usefixtures("every_chunk_is_a_part")
def test_killed_at_each_step(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever step a run dies at, the next one ends as one that was never killed."""
    source, out = tmp_path / "in.txt", tmp_path / name
    write_lines(source, 700)
    assert embed(source, "--out", tmp_path / f"whole{out.suffix}") == 0
    whole = (tmp_path / f"whole{out.suffix}").read_bytes()
    undertaker = Undertaker(monkeypatch)
    assert embed(source, "--out", out) == 0
    assert out.read_bytes() == whole
    steps = undertaker.steps
    assert steps > 25
    for last in range(steps):
        out.unlink()
        with pytest.raises(Killed), undertaker.kill_after(last):
            embed(source, "--out", out)
        code = embed(source, "--out", out)
        if code == 2:  # the output was in its place, and nothing left of the work but the lock
            assert last >= steps - 2
        else:
            assert code == 0
        assert out.read_bytes() == whole
        assert not work_folder(out).exists()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.usefixtures("every_chunk_is_a_part")
def test_killed_again_and_again(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    source, out = tmp_path / "in.txt", tmp_path / chance.choice(OUTPUTS)
    write_lines(source, chance.randrange(1, 2500))
    assert embed(source, "--out", tmp_path / f"whole{out.suffix}") == 0
    undertaker = Undertaker(monkeypatch)
    code = None
    while code is None:
        with suppress(Killed), undertaker.kill_after(chance.randrange(60)):
            code = embed(source, "--out", out)
    assert code == 0 or (code == 2 and not (work_folder(out) / "manifest.json").exists())
    assert out.read_bytes() == (tmp_path / f"whole{out.suffix}").read_bytes()


@pytest.mark.usefixtures("every_chunk_is_a_part")
def test_killed_while_work_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what was there is not taken for the whole."""
    source, out, saved = tmp_path / "in.txt", tmp_path / "out.jsonl", tmp_path / "saved"
    write_lines(source, 800)
    stop_halfway(source, out)
    shutil.copytree(work_folder(out), saved)
    undertaker = Undertaker(monkeypatch)
    for last in range(12):
        shutil.rmtree(work_folder(out), ignore_errors=True)
        shutil.copytree(saved, work_folder(out))
        out.unlink(missing_ok=True)
        with pytest.raises(Killed), undertaker.kill_after(last):
            embed(source, "--out", out, "--no-truncate", "--restart")
        assert embed(source, "--out", out, "--no-truncate") == 0
        assert len(read_rows(out)) == 800
        assert_vectors(read_rows(out))


def test_nothing_is_named_before_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace: list[str] = []

    def watch(owner: Any, name: str, told: Any) -> None:
        function = getattr(owner, name)

        def watched(*arguments: Any) -> Any:
            trace.append(told(*arguments))
            return function(*arguments)

        monkeypatch.setattr(owner, name, watched)

    def name_of(descriptor: int) -> str:
        return Path(f"/proc/self/fd/{descriptor}").readlink().name

    watch(os, "fsync", lambda descriptor: f"sync {name_of(descriptor)}")
    watch(Path, "replace", lambda path, target: f"name {Path(target).name}")
    write_lines(tmp_path / "in.txt", 10)
    assert embed(tmp_path / "in.txt", "--out", tmp_path / "out.npy") == 0

    def written(name: str) -> list[str]:
        return [f"sync {name}.tmp", f"name {name}", "sync out.npy.partial"]

    assert trace == [
        f"sync {tmp_path.name}",  # the work folder's own name
        *["sync out.npy.partial"],  # nothing is left of earlier work
        *written("manifest.json"),
        *written("part-000000.arrow"),
        *written("manifest.json"),
        *written("output"),
        *written("manifest.json"),
        "name out.npy",
        f"sync {tmp_path.name}",
    ]


def run_slowly(*flags: str) -> None:
    """Take seconds at least, so that there is time to be killed in."""
    parts.LEAST_PART_SECONDS = 0.05
    one_batch_at_once = SETTINGS.model_copy(update={"cpu_workers": 1})
    embed(*flags, before_forward=lambda _: time.sleep(0.01), settings=one_batch_at_once)


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
def test_sigkill_at_random_moments(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    source, out = tmp_path / "in.txt", tmp_path / OUTPUTS[seed]
    write_lines(source, 20_000)
    assert embed(source, "--out", tmp_path / f"whole{out.suffix}") == 0
    kills: list[int] = []
    while len(kills) < 6 and not out.exists():
        process = forks.Process(target=run_slowly, args=(str(source), "--out", str(out)))
        process.start()
        before = rows_done(out)
        while process.is_alive() and rows_done(out) <= before:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.join()
        kills.append(rows_done(out))
    if out.exists():
        kills.pop()
    assert 0 < kills[0] < 20_000
    assert sorted(kills) == kills
    if not out.exists():
        assert embed(source, "--out", out) == 0
    assert out.read_bytes() == (tmp_path / f"whole{out.suffix}").read_bytes()


def stop_halfway(source: Path, out: Path, *flags: object, rows: int = 512) -> None:
    """Run until a row that is longer than allowed stops it; the rows before it are kept."""
    whole = source.read_bytes()
    source.write_bytes(b"\n".join([*whole.split(b"\n")[:rows], b"word " * 99]))
    assert embed(source, "--out", out, "--no-truncate", *flags) == 1
    manifest = read_manifest(out)
    assert manifest is not None
    assert manifest.rows == rows
    source.write_bytes(whole)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    write_lines(path, 1000)
    return path


def test_done_rows_are_not_done_again(source: Path, tmp_path: Path) -> None:
    out, tokens = tmp_path / "out.jsonl", []
    stop_halfway(source, out)
    code = embed(
        source,
        "--out",
        out,
        "--no-truncate",
        before_forward=lambda batch: tokens.append(len(batch)),
    )
    assert code == 0
    assert sum(tokens) == 1000 - 512 + 1  # and the text that the model is known by
    assert len(read_rows(out)) == 1000
    assert_vectors(read_rows(out))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dimensions", 4], "dimensions: None then, 4 now"),
        (["--prompt", "a "], "prompt: None then, 'a ' now"),
        (["--model", "other"], "models.model: 'fake/model' then, 'other' now"),
        (["--column", "line"], "column: 'text' then, 'line' now"),
    ],
)
def test_another_command_does_not_go_on(
    flags: list[Any],
    message: str,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.jsonl"
    stop_halfway(source, out)
    before = snapshot(work_folder(out))
    assert embed(source, "--out", out, "--no-truncate", *flags) == 2
    assert message in capsys.readouterr().err
    assert snapshot(work_folder(out)) == before
    assert embed(source, "--out", out, "--restart", *flags) == 0


def test_a_run_that_kept_no_row_binds_nobody(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    stop_halfway(source, out)
    path = work_folder(out) / "manifest.json"
    begun = Manifest({}, [], truncate=True, on_error="fail")
    path.write_bytes(msgspec.json.encode(begun))
    assert embed(source, "--out", out, "--dimensions", 4) == 0


def test_another_model_of_the_same_name_does_not_go_on(
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out.jsonl"
    stop_halfway(source, out)
    assert embed(source, "--out", out, "--no-truncate", dimension=9) == 2
    assert "the model gives other vectors" in capsys.readouterr().err
    monkeypatch.setattr(fakes, "fake_vector", lambda ids, _: fake_vector(ids) + np.float32(0.1))
    assert embed(source, "--out", out, "--no-truncate") == 2
    assert "the model gives other vectors" in capsys.readouterr().err
    monkeypatch.setattr(fakes, "fake_vector", lambda ids, _: fake_vector(ids) + np.float32(1e-6))
    assert embed(source, "--out", out, "--no-truncate") == 0


@pytest.mark.parametrize("change", ["text", "shorter", "other column"])
def test_a_changed_input_does_not_go_on(
    change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"text": f"text {number}", "id": number} for number in range(1000)]

    def write(*more: Any) -> None:
        source.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))

    write({"text": None})
    assert embed(source, "--out", out) == 1
    if change == "text":
        rows[5]["text"] = "another"
    elif change == "shorter":
        del rows[300:]
    else:
        rows[5]["id"] = -1
    write()
    assert embed(source, "--out", out) == 2
    assert "the first 768 rows of the input are not those" in capsys.readouterr().err
    assert embed(source, "--out", out, "--restart") == 0
    assert_vectors(read_rows(out))


def test_a_parquet_file_may_be_mended(tmp_path: Path) -> None:
    """It is held against the rows that are done, whatever lies in Arrow's buffers behind a null."""
    texts = [f"text {number}" for number in range(600)]
    numbers = [None if number % 3 else number for number in range(601)]
    source, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    schema = pa.schema([("text", pa.string()), ("n", pa.int64())])
    pq.write_table(pa.table([[*texts, ""], numbers], schema=schema), source, row_group_size=50)
    assert embed(source, "--out", out) == 1
    manifest = read_manifest(out)
    assert manifest is not None
    assert manifest.rows > 0
    pq.write_table(pa.table([[*texts, "x"], numbers], schema=schema), source, row_group_size=50)
    assert embed(source, "--out", out) == 0
    assert [row["n"] for row in read_rows(out)] == numbers
    assert_vectors(read_rows(out))


def test_rules_may_change_until_they_mattered(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = source.read_text().splitlines()
    source.write_text("\n".join(["word " * 99, *texts, ""]) + "\n")
    out = tmp_path / "out.jsonl"
    assert embed(source, "--out", out) == 1  # one was cut, and the last is empty
    assert embed(source, "--out", out, "--no-truncate") == 2
    assert "--truncate, and there were texts too long" in capsys.readouterr().err
    assert embed(source, "--out", out, "--on-error", "null") == 0
    assert len(read_rows(out)) == 1002


def test_what_is_there_is_not_replaced_unasked(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.npy"
    out.write_bytes(b"precious")
    for flags in ([], ["--restart"]):
        assert embed(source, "--out", out, *flags) == 2
        assert "--overwrite" in capsys.readouterr().err
    assert out.read_bytes() == b"precious"
    stop_halfway(source, out, "--overwrite")
    assert out.read_bytes() == b"precious"
    assert embed(source, "--out", out) == 2
    assert embed(source, "--out", out, "--no-truncate", "--overwrite") == 0
    assert len(np.load(out)) == 1000


def test_two_runs_do_not_share_an_output(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.npy"
    codes: list[int] = []

    def before_forward(_: Batch) -> None:
        if not codes:
            codes.append(-1)
            codes[0] = os.spawnv(os.P_WAIT, "/bin/sh", ["sh", "-c", f"flock -n {lock} true"])

    lock = work_folder(out) / "lock"
    with hold_lock(lock):
        assert embed(source, "--out", out) == 1
    assert f"another run (process {os.getpid()}) is writing {out}" in capsys.readouterr().err
    # For other processes it is locked as well.
    assert embed(source, "--out", out, before_forward=before_forward) == 0
    assert codes == [1]


def test_a_lock_that_was_removed_while_one_waited_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "work" / "lock"
    flock = durable.fcntl.flock
    tries: list[int] = []

    def last_owner_leaves_first(file: Any, how: int) -> None:
        if not tries:
            tries.append(1)
            lock.unlink()
        flock(file, how)

    monkeypatch.setattr(durable.fcntl, "flock", last_owner_leaves_first)
    with hold_lock(lock):
        monkeypatch.undo()
        with pytest.raises(AlreadyLocked), hold_lock(lock):
            pass
    assert not lock.exists()


def test_work_of_another_version_is_left_alone(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.npy"
    stop_halfway(source, out)
    path = work_folder(out) / "manifest.json"
    for content in (path.read_text().replace('"version": 1', '"version": 2'), "{", "[]"):
        path.write_text(content)
        assert embed(source, "--out", out, "--no-truncate") == 2
        assert "--restart" in capsys.readouterr().err
        assert path.read_text() == content
    assert embed(source, "--out", out, "--restart") == 0
