# SPDX-License-Identifier: Apache-2.0
"""Instances that nobody uses: they say so, and end."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from appliance.idle import watch_idleness
from appliance.settings import ModelSettings, Settings
from tests.api.test_lifecycle import run_to_the_end
from tests.conftest import run_in_thread
from tests.fakes import FakeBackend, loading
from tests.unit.tickets import PATIENCE, Gate

HOUR = 3600


def engine_idle_for(*seconds: float, **settings: Any) -> Any:
    """An engine that has been idle for so long each time that it is asked, then for two hours."""
    answers = iter(seconds)
    kind = type("Idle", (), {"idle_seconds": property(lambda _: next(answers, 2.0 * HOUR))})
    engine: Any = kind()
    engine.settings = SimpleNamespace(
        idle_time_limit_hours=None,
        last_action_report_interval_seconds=None,
        last_action_file=None,
    )
    vars(engine.settings).update(settings)
    return engine


def run_watch(engine: Any) -> list[str]:
    stopped: list[str] = []
    watch = watch_idleness(engine, lambda: stopped.append("stopped"))
    asyncio.run(asyncio.wait_for(watch, PATIENCE))
    return stopped


def test_an_instance_stops_once_it_has_been_idle_for_the_limit() -> None:
    engine = engine_idle_for(0.0, 0.01, 0.0, idle_time_limit_hours=0.02 / HOUR)
    assert run_watch(engine) == ["stopped"]


def test_without_a_limit_nothing_is_watched() -> None:
    assert run_watch(engine_idle_for()) == []


def test_the_process_ends_with_0_and_says_why(tmp_path: Path) -> None:
    report = tmp_path / "new" / "last_action.json"
    done = run_to_the_end(
        "--idle-time-limit-hours",
        "0.0002",
        "--last-action-report-interval-seconds",
        "60",
        "--last-action-file",
        str(report),
    )
    assert done.returncode == 0, done.stderr
    assert "idle for 0.0002 hours, the limit: stopping" in done.stderr
    assert "last action" in done.stderr
    written = json.loads(report.read_bytes())
    assert written["idle_seconds"] >= 0.72
    assert written["idle_time_limit_seconds"] == pytest.approx(0.72)
    assert datetime.fromisoformat(written["last_action"]).tzinfo is not None


def test_the_report_is_written_again_and_again(tmp_path: Path) -> None:
    report = tmp_path / "last_action.json"
    engine = engine_idle_for(
        *[1.0] * 8,
        idle_time_limit_hours=1.0,
        last_action_report_interval_seconds=0.01,
        last_action_file=report,
    )
    assert run_watch(engine) == ["stopped"]
    assert [path.name for path in tmp_path.iterdir()] == ["last_action.json"]


def test_a_report_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    engine = engine_idle_for(
        *[1.0] * 6,
        idle_time_limit_hours=1.0,
        last_action_report_interval_seconds=0.01,
        last_action_file=tmp_path / "file" / "below",
    )
    assert run_watch(engine) == ["stopped"]
    assert "last_action_file cannot be written" in caplog.text


def test_a_request_under_way_is_no_idleness() -> None:
    gate = Gate()
    settings = Settings(models=(ModelSettings(model="fake/model"),))
    backend = loading(lambda _: FakeBackend(before_forward=gate))
    with run_in_thread(settings, backend) as server:
        assert server.engine is not None
        before = server.engine.last_action
        assert server.engine.idle_seconds > 0
        asked = threading.Thread(target=lambda: server.embed(model="fake/model", input="a"))
        asked.start()
        assert gate.held.wait(PATIENCE)
        assert server.engine.idle_seconds == 0
        gate.opened.set()
        asked.join(PATIENCE)
        assert before < server.engine.last_action <= time.monotonic()


def test_probes_and_lists_are_no_use_of_the_instance() -> None:
    with run_in_thread() as server:
        assert server.engine is not None
        before = server.engine.last_action
        for path in ("/health", "/ready", "/v1/models"):
            assert httpx.get(server.url + path).status_code == 200
        assert server.engine.last_action == before
