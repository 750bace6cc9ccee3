# SPDX-License-Identifier: Apache-2.0
"""Clients that leave before their answer is there."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from appliance.engine.backend import Room
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.settings import ModelSettings, Settings
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import FakeBackend, FakePrepared, load_fake, loading
from tests.unit.tickets import PATIENCE, Gate, until

MODEL = "fake/model"
PERMITS = 20
SETTINGS = Settings(
    models=(ModelSettings(model=MODEL, max_concurrent_requests=PERMITS),), cpu_workers=1
)


class Caller:
    """A client that can hang up.

    Args:
        server: The server.
        texts: Asked for at once, each by a request of its own on the one connection.
    """

    def __init__(self, server: RunningServer, *texts: str) -> None:
        url = httpx.URL(server.url)
        assert url.port is not None
        self._socket = socket.create_connection((url.host, url.port), timeout=PATIENCE)
        self._file = self._socket.makefile("rb")
        self.ask(*texts)

    def ask(self, *texts: str) -> None:
        """Send further requests."""
        self._socket.sendall(b"".join(map(_request, texts)))

    def read(self) -> tuple[int, dict[str, object]]:
        """The next answer's status and body."""
        status = int(self._file.readline().split()[1])
        length = 0
        while line := self._file.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return status, json.loads(self._file.read(length))

    def hang_up(self) -> None:
        """Close the connection, whatever is still to come on it."""
        self._file.close()
        self._socket.close()


def _request(text: str) -> bytes:
    body = json.dumps({"model": MODEL, "input": [text] * 3}).encode()
    head = "POST /v1/embeddings HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@contextmanager
def held_server() -> Iterator[tuple[RunningServer, FakeBackend, Gate]]:
    """A server whose one worker is held in the middle of a batch that somebody waits for."""
    gate = Gate()
    backend = FakeBackend(before_forward=gate)
    with run_in_thread(SETTINGS, loading(lambda _: backend)) as server:
        first = Caller(server, "first")
        assert gate.held.wait(PATIENCE)
        try:
            yield server, backend, gate
        finally:
            gate.opened.set()
            assert first.read()[0] == 200
            first.hang_up()


def model_of(server: RunningServer) -> ServedModel:
    return engine_of(server).models[0]


def engine_of(server: RunningServer) -> Engine:
    assert server.engine is not None
    return server.engine


def waiting(server: RunningServer) -> int:
    lane = model_of(server).lane
    assert lane is not None
    return len(lane.queue)


@pytest.mark.parametrize("callers", [1, PERMITS - 1])
def test_their_work_is_dropped_and_their_permits_are_free(callers: int) -> None:
    with held_server() as (server, backend, gate):
        gone = [Caller(server, f"gone {number}") for number in range(callers)]
        until(lambda: waiting(server) == callers)
        for caller in gone:
            caller.hang_up()
        until(lambda: model_of(server).requests == 1)
        assert waiting(server) == 0
        with ExitStack() as stack:
            later = [Caller(server, "later") for _ in range(PERMITS - 1)]
            for caller in later:
                stack.callback(caller.hang_up)
            until(lambda: waiting(server) == PERMITS - 1)
            gate.opened.set()
            assert [caller.read()[0] for caller in later] == [200] * len(later)
        # "first" and "later" are three tokens each, and "gone 1" would be four.
        assert {length for batch in backend.batches for length in batch} == {3}


def test_one_that_stays_is_answered_among_many_that_leave() -> None:
    with held_server() as (server, _backend, gate):
        gone = [Caller(server, "gone") for _ in range(5)]
        stays = Caller(server, "stays")
        until(lambda: waiting(server) == 6)
        for caller in gone:
            caller.hang_up()
        until(lambda: waiting(server) == 1)
        gate.opened.set()
        assert stays.read()[0] == 200
        stays.hang_up()


def test_a_batch_under_way_is_let_run_out() -> None:
    gate = Gate()
    with run_in_thread(SETTINGS, loading(lambda _: FakeBackend(before_forward=gate))) as server:
        caller = Caller(server, "gone")
        assert gate.held.wait(PATIENCE)
        caller.hang_up()
        until(lambda: model_of(server).requests == 0)
        gate.opened.set()
        assert server.embed(model=MODEL, input="a").status_code == 200
        assert model_of(server).state == "idle"


def test_while_the_model_is_loading() -> None:
    release = threading.Event()

    def load(settings: Settings, model: ModelSettings, rooms: Mapping[str, Room]) -> FakePrepared:
        assert release.wait(PATIENCE)
        return load_fake(settings, model, rooms)

    with run_in_thread(SETTINGS, load, wait=False) as server:
        gone = [Caller(server, "gone") for _ in range(3)]
        stays = Caller(server, "stays")
        until(lambda: model_of(server).requests == 4)
        for caller in gone:
            caller.hang_up()
        until(lambda: model_of(server).requests == 1)
        release.set()
        assert stays.read()[0] == 200
        stays.hang_up()


def test_nothing_is_logged_as_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    with held_server() as (server, _backend, _gate):
        caller = Caller(server, "gone")
        until(lambda: waiting(server) == 1)
        caller.hang_up()
        until(lambda: waiting(server) == 0)
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_in_the_middle_of_a_body(caplog: pytest.LogCaptureFixture) -> None:
    with run_in_thread(SETTINGS) as server:
        caller = Caller(server)
        caller._socket.sendall(_request("never whole")[:-5])
        caller.hang_up()
        assert server.embed(model=MODEL, input="a").status_code == 200
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_requests_in_a_row_on_one_connection_are_answered_in_order() -> None:
    with held_server() as (server, _backend, gate):
        caller = Caller(server, "a", "a b")
        caller.ask("a b c")
        until(lambda: waiting(server) == 1)
        gate.opened.set()
        for tokens in (9, 12, 15):
            status, answer = caller.read()
            assert (status, answer["usage"]) == (
                200, {"prompt_tokens": tokens, "total_tokens": tokens}
            )  # fmt: skip
        caller.ask("a b c d")
        assert caller.read()[0] == 200
        caller.hang_up()


def test_a_body_that_comes_in_parts_is_no_departure() -> None:
    with run_in_thread(SETTINGS) as server:
        caller = Caller(server)
        request = _request("slowly")
        for part in (request[:30], request[30:-20], request[-20:-1], request[-1:]):
            caller._socket.sendall(part)
        assert caller.read()[0] == 200
        caller.hang_up()
