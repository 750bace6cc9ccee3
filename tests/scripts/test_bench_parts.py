# SPDX-License-Identifier: Apache-2.0
"""The parts that the bench is made of."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest
import update_readme
from bench_lib.beside import measure_beside
from bench_lib.client import Endpoint, parse_server_timing, post_all
from bench_lib.load import Load, Shape, make_load, request_bodies
from bench_lib.options import weights
from bench_lib.processes import busy_core
from bench_lib.results import floor
from bench_lib.rounds import Reference, Rounds, Scenario
from bench_lib.servers import MODEL
from bench_lib.systems import Pass
from bench_lib.venvs import made_once
from profile_request import OTHERS, TOKENIZERS, WORKERS, Profile, cpu_seconds, report

from appliance.settings import ModelSettings, Settings
from tests.conftest import run_in_thread
from tests.processes import forks

TEXTS = Load(("a b", "c", "d e f"), (4, 3, 5), "a b", 4)
RIGHT = np.eye(3, dtype=np.float32)


class FakeSystem:
    process = None
    start_seconds = 1.0

    def __init__(
        self, name: str, dtype: str = "float32", vectors: object = RIGHT, usage: int | None = None
    ) -> None:
        self.name, self.dtype, self.vectors, self.usage = name, dtype, vectors, usage
        self.clients: list[int] = []

    def embed(self, load: Load, clients: int) -> Pass:
        self.clients.append(clients)
        return Pass(0.5, self.vectors, usage_tokens=self.usage)


class FakeWorker:
    child = SimpleNamespace(pid=os.getpid())

    def floor(self, batches: Sequence[int], dtype: str, *, prepacked: bool) -> float | None:
        return None if prepacked else sum(batches) / 10


def measured(*systems: FakeSystem) -> Rounds:
    rounds = Rounds(FakeWorker(), systems)
    scenario = Scenario("a scenario", Reference(TEXTS, RIGHT), clients=7)
    steps = [
        *rounds.floors(scenario, ["float32"], prepacked=True),
        *rounds.throughput(scenario, systems),
    ]
    rounds.run(3, steps)
    return rounds


def test_each_system_is_measured_once_a_round() -> None:
    system = FakeSystem("one")
    rates = measured(system).results.rates["a scenario"]
    assert system.clients == [7, 7, 7]
    assert rates["one"].tokens_per_second == [24, 24, 24]
    assert rates[floor("float32")].tokens_per_second == [10, 10, 10]


def test_a_floor_that_the_cpu_has_not_is_left_out() -> None:
    assert floor("float32", prepacked=True) not in measured().results.rates["a scenario"]


def test_wrong_vectors_and_counts_are_faults() -> None:
    off = RIGHT + np.float32(0.1)
    systems = [
        FakeSystem("right", usage=12),
        FakeSystem("wrong vectors", vectors=off),
        FakeSystem("of another shape", vectors=RIGHT[:2]),
        FakeSystem("not a number", vectors=RIGHT * np.nan, dtype="int8"),
        FakeSystem("quantised", vectors=off, dtype="int8"),
        FakeSystem("wrong count", usage=11),
    ]
    with np.errstate(invalid="ignore"):
        faults = measured(*systems).results.faults
    assert sorted(faults) == ["not a number", "of another shape", "wrong count", "wrong vectors"]


@pytest.mark.parametrize(("shape", "least", "most"), [("short", 10, 20), ("long", 200, 256)])
def test_texts_have_the_length_that_their_shape_says(shape: Shape, least: int, most: int) -> None:
    counts = make_load(weights(), 50, 0, shape).token_counts
    assert least <= min(counts) < max(counts) <= most


def test_more_texts_begin_with_the_same() -> None:
    assert make_load(weights(), 9, seed=3).first(4) == make_load(weights(), 4, seed=3)


def test_server_timing_is_read() -> None:
    found = parse_server_timing("tokenize;dur=0.20, forward;dur=7")
    assert found == {
        "tokenize": 0.2,
        "forward": 7,
    }
    assert parse_server_timing(None) == {}
    assert parse_server_timing("cache") == {}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    settings = Settings(models=(ModelSettings(model="fake/model", aliases=(MODEL,)),))
    with run_in_thread(settings) as server:
        parts = urlsplit(server.url)
        headers = {"content-type": "application/json"}
        yield Endpoint(parts.hostname, parts.port, "/v1/embeddings", headers)


def test_the_client_keeps_times_by_request(endpoint: Endpoint) -> None:
    answers = post_all(endpoint, list(request_bodies(TEXTS.texts, 2, MODEL)), clients=2)
    assert answers.vectors.shape[0] == len(TEXTS.texts)
    assert answers.usage_tokens == TEXTS.tokens
    assert len(answers.milliseconds) == len(answers.server_timings) == 2
    assert all(
        timing.keys() >= {"tokenize", "queue", "forward"} for timing in answers.server_timings
    )


def test_a_lone_text_is_timed_beside_a_stream(endpoint: Endpoint) -> None:
    beside = measure_beside(endpoint, TEXTS, requests=3, seconds=60)
    assert len(beside.milliseconds) == len(beside.batch_milliseconds) == 3
    assert beside.batch is not None
    assert beside.stream_tokens_per_second > 0


def test_cpu_time_goes_to_the_group_of_its_thread() -> None:
    """In a process of its own, where no worker of an earlier test stirs."""
    process = forks.Process(target=look_at_cpu_time)
    process.start()
    process.join()
    assert process.exitcode == 0


def look_at_cpu_time() -> None:
    def work() -> None:
        while time.thread_time() < 0.05:
            pass
        done.set()
        leave.wait()

    done, leave = threading.Event(), threading.Event()
    before = cpu_seconds()
    thread = threading.Thread(target=work, name="tokenize-a-model_0")
    thread.start()
    done.wait()
    after = cpu_seconds()
    leave.set()
    thread.join()
    assert after[TOKENIZERS] - before[TOKENIZERS] >= 0.05
    assert after[WORKERS] == before[WORKERS]


def test_the_profile_adds_up(endpoint: Endpoint) -> None:
    answers = post_all(endpoint, list(request_bodies(TEXTS.texts, 2, MODEL)), clients=1)
    seconds = dict.fromkeys(cpu_seconds(), 0.0) | {WORKERS: 0.09, TOKENIZERS: 0.01}
    profile = Profile(seconds, answers)
    lines = list(report([profile, profile]))
    assert f"| {WORKERS} | 45.00 (90.0%) | 45.00 (90.0%) |" in lines
    assert f"| {OTHERS} | 0.00 (0.0%) | 0.00 (0.0%) |" in lines
    assert any(line.startswith("| **HTTP") and "**5.00 (10.0%)**" in line for line in lines)


def test_a_busy_core_is_busy_only_as_long_as_asked() -> None:
    with busy_core() as process:
        assert Path(f"/proc/{process}").exists()
    assert not Path(f"/proc/{process}").exists()


def test_what_peers_need_is_made_once_and_again_for_other_pins(tmp_path: Path) -> None:
    made: list[str] = []

    def make(folder: Path) -> None:
        made.append(folder.name)

    for stamp in ("a", "a", "b"):
        made_once(tmp_path / "peer", stamp, make)
    assert made == ["peer", "peer"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError):
        made_once(tmp_path / "mine", "a", make)


def test_what_could_not_be_made_is_made_anew(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise RuntimeError("no compiler")

    with pytest.raises(RuntimeError, match="no compiler"):
        made_once(tmp_path / "peer", "a", fail)
    made: list[Path] = []
    made_once(tmp_path / "peer", "a", made.append)
    assert made


def test_the_readme_shows_the_picture_above_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update_readme, "README", tmp_path / "README.md")
    monkeypatch.setattr(update_readme, "PICTURE", tmp_path / "scripts" / "bench.png")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "new.png").write_bytes(b"a picture")
    text = update_readme.with_picture("| a table |", tmp_path / "new.png")
    assert text.startswith("![")
    assert "](scripts/bench.png)\n\n| a table |" in text
    assert (tmp_path / "scripts" / "bench.png").read_bytes() == b"a picture"
