# SPDX-License-Identifier: Apache-2.0
"""Threads that die and forward passes that hang."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from appliance.engine import service
from appliance.engine.device import Device
from appliance.engine.types import Batch
from appliance.errors import InternalError, ModelUnavailable
from appliance.settings import ModelSettings, Settings
from tests.api.management import Asked
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import FakeBackend, loading
from tests.unit.tickets import PATIENCE, POISON, Gate, Ticket, lane, running, until

MODEL = "fake/model"


class WorkerKilled(BaseException):
    """What no worker catches."""


def kill(batch: Batch) -> None:
    """End the thread that computes a batch with a text of three words in it."""
    if 5 in batch.lengths:
        raise WorkerKilled


@contextmanager
def serving(
    before_forward: Callable[[Batch], None], workers: int = 1, **options: Any
) -> Iterator[RunningServer]:
    settings = Settings(models=(ModelSettings(model=MODEL),), cpu_workers=workers, **options)
    load = loading(lambda _: FakeBackend(before_forward=before_forward))
    with run_in_thread(settings, load) as server:
        yield server


def health(server: RunningServer) -> tuple[int, str]:
    answer = httpx.get(f"{server.url}/health")
    return answer.status_code, answer.json().get("reason", "")


def is_right(server: RunningServer) -> bool:
    return server.embed(model=MODEL, input="good").status_code == 200


class TestAWorkerThatDies:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_is_replaced_and_its_requests_are_answered(
        self, workers: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(service, "CARE_SECONDS", 0.01)
        with serving(kill, workers) as server:
            for _ in range(3):
                killed = server.embed(model=MODEL, input="one two three")
                assert killed.status_code == 500
                assert "died" in killed.json()["error"]["message"]
                assert is_right(server)
            until(lambda: health(server) == (200, ""))
        assert "cpu-worker-" in caplog.text
        assert "a batch of 5 tokens of fake/model is lost" in caplog.text

    def test_turns_health_red_until_then(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(service, "CARE_SECONDS", 1e6)
        with serving(kill) as server:
            assert server.engine is not None
            killed = Asked(lambda: server.embed(model=MODEL, input="one two three"))
            until(lambda: health(server)[0] == 503)
            assert "worker of cpu does not run" in health(server)[1]
            assert httpx.get(f"{server.url}/ready").status_code == 503
            assert killed.is_open
            server.engine.lifecycle.fleet.look_after()
            assert killed.answer().status_code == 500
            assert health(server) == (200, "")
            assert is_right(server)

    def test_takes_no_other_request_with_it(self) -> None:
        def kill_poisoned(batch: Batch) -> None:
            if POISON in batch.input_ids:
                raise WorkerKilled

        with running() as device:
            served = lane(device, FakeBackend(before_forward=kill_poisoned), tokens=10)
            poison, others = Ticket(10, 10, token=POISON), [Ticket(10), Ticket(10)]
            for ticket in (poison, *others):
                served.submit(ticket.job)
            until(lambda: device.fault != "")
            device.look_after()
            assert isinstance(poison.wait().error, InternalError)
            for ticket in others:
                ticket.assert_right()
            assert poison.times_done == 1
            assert not device.fault
            assert not served.copies[0].running  # its weights may move again


class TestAForwardPassThatHangs:
    def test_its_requests_are_answered_and_it_recovers(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(service, "CARE_SECONDS", 0.01)
        gate = Gate()
        with serving(gate, forward_timeout_seconds=0.05) as server:
            hung = server.embed(model=MODEL, input="one two three")
            assert hung.status_code == 503
            assert hung.headers["retry-after"]
            status, reason = health(server)
            assert status == 503
            assert "cpu hangs: a batch of 5 tokens of fake/model" in reason
            assert "more than 0.05 s" in reason
            later = Asked(lambda: server.embed(model=MODEL, input="good"))
            gate.opened.set()
            assert later.answer().status_code == 200
            assert health(server) == (200, "")
        assert caplog.text.count("a batch of 5 tokens of fake/model") == 1

    def test_what_was_to_follow_of_its_requests_is_dropped(self) -> None:
        gate = Gate()
        device = Device(cpu_workers=1, forward_timeout=0.01)
        device.start()
        backend = FakeBackend(before_forward=gate)
        served = lane(device, backend, tokens=10)
        hung, other = Ticket(10, 10, 10), Ticket(9)
        served.submit(hung.job)
        assert gate.held.wait(PATIENCE)
        served.submit(other.job)
        until(lambda: device.fault != "")
        device.look_after()
        assert isinstance(hung.wait().error, ModelUnavailable)
        gate.opened.set()
        other.assert_right()
        device.stop()
        assert backend.batches == [[10], [9]]
        assert hung.times_done == 1

    def test_a_stop_does_not_wait_for_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("appliance.engine.device.STOP_SECONDS", 0.01)
        gate = Gate()
        device = Device(cpu_workers=1)
        device.start()
        served = lane(device, FakeBackend(before_forward=gate))
        hung = Ticket(1)
        served.submit(hung.job)
        assert gate.held.wait(PATIENCE)
        device.stop()
        assert device.hangs
        assert isinstance(hung.wait().error, ModelUnavailable)
        gate.opened.set()
        until(lambda: not device.hangs)
        assert hung.times_done == 1
