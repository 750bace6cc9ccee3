# SPDX-License-Identifier: Apache-2.0
"""Threads that die and forward passes that hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import pytest

from appliance.engine import service
from appliance.engine.device import Device
from appliance.engine.jobs import Batch
from appliance.errors import InternalError, ModelUnavailable
from appliance.settings import ModelSettings, Settings
from tests.api.management import Asked, add, assert_error, described, state_of
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import FakeBackend, loading
from tests.unit.tickets import PATIENCE, POISON, Gate, Ticket, lane, running, shared_lane, until

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

    def test_takes_no_other_request_with_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        killed: list[Batch] = []

        def kill_poisoned(batch: Batch) -> None:
            if POISON in batch.input_ids:
                killed.append(batch)
                raise WorkerKilled

        def fail_late(fail: Callable[..., None], *arguments: object) -> None:
            time.sleep(0.1)  # in which another worker could take the second text of the poison
            fail(*arguments)

        with running() as device:
            served = lane(device, FakeBackend(before_forward=kill_poisoned), tokens=10)
            monkeypatch.setattr(served, "fail_jobs", partial(fail_late, served.fail_jobs))
            poison, others = Ticket(10, 10, token=POISON), [Ticket(10), Ticket(10)]
            for ticket in (poison, *others):
                served.submit(ticket.job)
            until(lambda: device.fault != "")
            device.look_after()
            assert isinstance(poison.wait().error, InternalError)
            for ticket in others:
                ticket.assert_right()
            assert poison.times_done == 1
            assert len(killed) == 1
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
            gate.opened.set()
            until(lambda: health(server) == (200, ""))
            assert is_right(server)
        assert caplog.text.count("a batch of 5 tokens of fake/model") == 1

    def test_others_are_told_at_once_until_it_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(service, "CARE_SECONDS", 0.01)
        gate = Gate()
        with serving(gate, forward_timeout_seconds=0.5) as server:
            hung = Asked(lambda: server.embed(model=MODEL, input="one two three"))
            assert gate.held.wait(PATIENCE)
            queued = [Asked(lambda: server.embed(model=MODEL, input="good")) for _ in range(3)]
            assert hung.answer().status_code == 503
            new = server.embed(model=MODEL, input="good")
            for answer in (*(each.answer() for each in queued), new):
                assert_error(answer, 503, f"The device of the model '{MODEL}' hangs.")
                assert answer.headers["retry-after"] == "5"
            assert not gate.opened.is_set()
            gate.opened.set()
            until(lambda: health(server) == (200, ""))
            assert is_right(server)

    def test_other_workers_go_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(service, "CARE_SECONDS", 0.01)
        release = threading.Event()

        def hang(batch: Batch) -> None:
            if 5 in batch.lengths:
                assert release.wait(PATIENCE)

        with serving(hang, workers=2, forward_timeout_seconds=0.2) as server:
            assert server.embed(model=MODEL, input="one two three").status_code == 503
            assert health(server)[0] == 503
            for _ in range(5):
                assert is_right(server)
            release.set()
            until(lambda: health(server) == (200, ""))

    def test_another_device_goes_on(self) -> None:
        lock, gate = threading.Lock(), Gate()
        hung, well = (
            Device(name, lock=lock, forward_timeout=0.01) for name in ("cuda:0", "cuda:1")
        )
        served = shared_lane({hung: FakeBackend(before_forward=gate), well: FakeBackend()}, 10)
        hung.start()
        lost = Ticket(10)
        served.submit(lost.job)
        assert gate.held.wait(PATIENCE)
        waits, later = Ticket(9), Ticket(8)
        served.submit(waits.job)
        until(lambda: hung.fault != "")
        hung.look_after()
        assert isinstance(lost.wait().error, ModelUnavailable)
        assert hung.is_stuck
        well.start()
        served.submit(later.job)
        waits.assert_right()
        later.assert_right()
        gate.opened.set()
        hung.stop()
        well.stop()

    def test_what_was_to_follow_of_its_requests_is_dropped(self) -> None:
        gate = Gate()
        device = Device(cpu_workers=1, forward_timeout=0.01)
        device.start()
        backend = FakeBackend(before_forward=gate)
        served = lane(device, backend, tokens=10)
        hung, other = Ticket(10, 10, 10), Ticket(9)
        served.submit(hung.job)
        assert gate.held.wait(PATIENCE)
        until(lambda: device.fault != "")
        device.look_after()
        assert isinstance(hung.wait().error, ModelUnavailable)
        gate.opened.set()
        until(lambda: not device.fault)
        served.submit(other.job)
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


class HangingAtFirst(FakeBackend):
    """A model whose trial passes wait for the test, the first time that it is loaded.

    Args:
        gate: What they wait at.
    """

    def __init__(self, gate: Gate | None) -> None:
        super().__init__()
        self._gate = gate

    def warm_up(self, batch_tokens: int) -> None:
        if self._gate is not None:
            self._gate.held.set()
            assert self._gate.opened.wait(PATIENCE)


class TestATrialPassThatHangs:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_fails_its_model_and_no_other(
        self, workers: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(service, "CARE_SECONDS", 0.01)
        monkeypatch.setattr("appliance.engine.lifecycle.COOL_DOWN_SECONDS", 0.05)
        gate = Gate()
        made: list[FakeBackend] = []

        def make(model: ModelSettings) -> FakeBackend:
            backend = HangingAtFirst(gate if model.name == "hangs" and not made else None)
            if model.name == "hangs":
                made.append(backend)
            return backend

        models = tuple(ModelSettings(model=name) for name in ("hangs", MODEL))
        settings = Settings(models=models, cpu_workers=workers, forward_timeout_seconds=0.2)
        with run_in_thread(settings, loading(make)) as server:
            assert state_of(server, "hangs") == "failed"
            reason = described(server, "hangs")["reason"]
            told = "its trial passes on cpu did not end within 0.2 s (forward_timeout_seconds)"
            assert reason == told
            assert health(server) == (200, "")
            assert is_right(server)
            later = "its trial passes hang since it was loaded before"
            until(lambda: later in server.embed(model="hangs", input="a").text)
            assert made[0].moves == [], "what a thread uses is not taken away from it"
            assert len(made) == 1, "memory is taken for each try"
            gate.opened.set()
            until(lambda: made[0].moves == ["close"])
            until(lambda: server.embed(model="hangs", input="a").status_code == 200)
            assert is_right(server)

    def test_waits_for_no_device_that_hangs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(service, "CARE_SECONDS", 0.01)
        gate = Gate()
        with serving(gate, forward_timeout_seconds=0.05) as server:
            assert server.embed(model=MODEL, input="one two three").status_code == 503
            add(server, "new")
            until(lambda: state_of(server, "new") == "failed")
            assert described(server, "new")["reason"] == "cpu hangs"
            gate.opened.set()
            until(lambda: health(server) == (200, ""))
