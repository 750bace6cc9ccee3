# SPDX-License-Identifier: Apache-2.0
"""Orders to stop, in the middle of the day."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from appliance.listening import bind_shared, take_waiting
from appliance.server import ApplianceServer
from appliance.settings import ModelSettings, Settings
from tests.api.management import Asked
from tests.conftest import REAL_MODEL, RunningServer, run_process, wait_until_healthy
from tests.fakes import FakeBackend, loading
from tests.unit.tickets import PATIENCE, Gate, until

MODEL = "fake/model"


class Client:
    """Asks on one connection, again and again, until an answer says that it closes."""

    def __init__(self, url: str, number: int) -> None:
        self.answers: list[httpx.Response] = []
        self.faults: list[Exception] = []
        self.number = number
        self._url = url
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while "close" not in (self.answers[-1].headers if self.answers else {}).get(
                "connection", ""
            ):
                body = {"model": REAL_MODEL, "input": [f"text {self.number}"] * 5}
                try:
                    self.answers.append(client.post("/v1/embeddings", json=body))
                except httpx.HTTPError as error:
                    self.faults.append(error)
                    return

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


def test_every_request_of_a_busy_server_is_answered() -> None:
    with run_process() as server:
        assert server.process is not None
        clients = [Client(server.url, number) for number in range(8)]
        until(lambda: all(client.answers for client in clients))
        server.process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join()
        assert server.process.wait(60) == 0
    assert not [fault for client in clients for fault in client.faults]
    answers = [answer for client in clients for answer in client.answers]
    assert {answer.status_code for answer in answers} == {200}
    assert all(len(answer.json()["data"]) == 5 for answer in answers)
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


def states(server: RunningServer) -> list[str]:
    return [model["state"] for model in httpx.get(f"{server.url}/health").json()["models"]]


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(second: signal.Signals) -> None:
    with run_process() as server:
        assert server.process is not None
        outcome: list[object] = []

        def ask() -> None:
            try:
                outcome.append(server.embed(model=REAL_MODEL, input=["long " * 200] * 1000))
            except httpx.HTTPError as error:
                outcome.append(error)

        long = threading.Thread(target=ask)
        long.start()
        until(lambda: states(server) == ["active"])
        server.process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{server.url}/ready").status_code == 503)
        server.process.send_signal(second)
        assert server.process.wait(60) == 128 + second
        long.join(60)
    assert isinstance(outcome[0], httpx.HTTPError)


@contextmanager
def serving(
    monkeypatch: pytest.MonkeyPatch, backend: Callable[[], FakeBackend], **options: Any
) -> Iterator[tuple[RunningServer, Callable[[], None], threading.Thread]]:
    """The whole server but its process, and what tells it to stop."""
    monkeypatch.setattr("appliance.engine.service.load_with_torch", loading(lambda _: backend()))
    settings = Settings(models=(ModelSettings(model=MODEL),), port=0, cpu_workers=1, **options)
    server = ApplianceServer(settings)
    sockets = bind_shared(settings.host, settings.port) if settings.reuse_port else None
    thread = threading.Thread(target=server.run, args=(sockets,))
    thread.start()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    wait_until_healthy(url)
    try:
        yield (
            RunningServer(url, [], server._engine),
            lambda: server.handle_exit(signal.SIGTERM, None),
            thread,
        )
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def test_open_connections_are_served_once_more_and_told_to_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("appliance.server.LINGER_SECONDS", PATIENCE)
    gate = Gate()
    with (
        serving(monkeypatch, lambda: FakeBackend(before_forward=gate)) as (server, stop, thread),
        httpx.Client(base_url=server.url) as idle,
        httpx.Client(base_url=server.url) as prober,
    ):
        assert idle.get("/ready").status_code == 200
        assert prober.get("/ready").headers.get("connection") is None
        accepted = Asked(lambda: server.embed(model=MODEL, input="accepted"))
        assert gate.held.wait(PATIENCE)
        stop()
        ready = prober.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "stopping")
        assert ready.headers["connection"] == "close"
        gate.opened.set()
        late = idle.post("/v1/embeddings", json={"model": MODEL, "input": "late"})
        for answer in (late, accepted.answer()):
            assert answer.status_code == 200
            assert answer.headers["connection"] == "close"
        thread.join(60)
        assert not thread.is_alive()
        with pytest.raises(httpx.ConnectError):
            idle.get("/ready")


def test_who_connects_as_a_shared_port_is_left_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late: list[socket.socket] = []

    def take(listener: socket.socket) -> list[socket.socket]:
        late.append(socket.create_connection(listener.getsockname(), PATIENCE))
        late[-1].sendall(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n")
        return take_waiting(listener)

    monkeypatch.setattr("appliance.server.take_waiting", take)
    with serving(monkeypatch, FakeBackend, reuse_port=True) as (server, stop, thread):
        stop()
        until(lambda: bool(late))
        with late[0] as client, client.makefile("rb") as answer:
            assert answer.readline() == b"HTTP/1.1 503 Service Unavailable\r\n"
            assert b"connection: close\r\n" in answer.readlines()
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url)
        thread.join(60)
        assert not thread.is_alive()


def test_what_is_not_done_in_time_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    with serving(
        monkeypatch, lambda: FakeBackend(before_forward=gate), drain_timeout_seconds=0.1
    ) as (server, stop, thread):
        assert server.engine is not None
        lane = server.engine.models[0].lane
        assert lane is not None
        running = Asked(lambda: server.embed(model=MODEL, input="running"))
        assert gate.held.wait(PATIENCE)
        waiting = Asked(lambda: server.embed(model=MODEL, input="waiting"))
        until(lambda: len(lane.queue) == 1)
        stop()
        answer = waiting.answer()
        assert answer.status_code == 503
        assert "stopping" in answer.json()["error"]["message"]
        gate.opened.set()
        assert running.answer().status_code == 200
        thread.join(60)
        assert not thread.is_alive()


HANGING = """
import logging, sys, threading
from appliance.engine import device, service
from appliance.configuration import Configuration
from appliance.server import serve
from appliance.settings import ModelSettings, Settings
from tests.fakes import FakeBackend, loading

device.STOP_SECONDS = 0.1
hang = threading.Event().wait
service.load_with_torch = loading(lambda _: FakeBackend(before_forward=lambda _: hang()))
logging.basicConfig(level="INFO")
model = ModelSettings(model="fake/model")
sys.exit(serve(Configuration.of(Settings(models=(model,), port=0, drain_timeout_seconds=0.1))))
"""


def test_a_forward_pass_that_hangs_does_not_keep_the_process() -> None:
    with run_process(code=HANGING) as server:
        assert server.process is not None
        hung = Asked(lambda: server.embed(model=MODEL, input="x"))
        until(lambda: states(server) == ["active"])
        server.process.send_signal(signal.SIGTERM)
        assert hung.answer().status_code == 503
        assert server.process.wait(60) == 0


LOADING = """
import logging, sys, threading
from appliance.engine import device, service
from appliance.configuration import Configuration
from appliance.server import serve
from appliance.settings import ModelSettings, Settings
from tests.fakes import FakeBackend, FakePrepared

device.STOP_SECONDS = 0.1

def hang():
    logging.getLogger("test").info("hangs now")
    threading.Event().wait()

class Slow(FakeBackend):
    def warm_up(self, batch_tokens):
        hang()

class Prepared(FakePrepared):
    def load(self, number):
        return hang() if {where!r} == "reading" else Slow()

def load(settings, model, rooms):
    if model.name != "slow":
        return FakePrepared()
    return hang() if {where!r} == "downloading" else Prepared()

service.load_with_torch = load
logging.basicConfig(level="INFO")
models = (ModelSettings(model="fake/model"), ModelSettings(model="slow", eager=False))
sys.exit(serve(Configuration.of(Settings(models=models, port=0, drain_timeout_seconds=0.5))))
"""


@pytest.mark.parametrize("where", ["downloading", "reading", "first pass"])
def test_a_model_that_is_being_loaded_does_not_keep_the_process(where: str) -> None:
    with run_process(code=LOADING.format(where=where)) as server:
        assert server.process is not None
        waits = Asked(lambda: server.embed(model="slow", input="x"))
        until(lambda: any("hangs now" in line for line in server.log))
        assert server.embed(model=MODEL, input="x").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        answer = waits.answer()
        assert answer.status_code == 503
        assert "stopping" in answer.json()["error"]["message"]
        assert server.process.wait(60) == 0
