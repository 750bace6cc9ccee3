# SPDX-License-Identifier: Apache-2.0
"""Two servers on one port, with one PostgreSQL and one data_dir: processes as users run them.

A connection stays with the process that took it, so that each is asked by a connection of its own.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.access import KEY
from tests.api.batching import MODEL, assert_right, line, lines_of
from tests.api.management import eventually
from tests.conftest import RunningServer, run_process
from tests.postgresql import PostgreSQL, make_postgresql

SERVE = """
import sys, time
from appliance.batches import running, worker
from appliance.cli import main
from appliance.engine import service
from tests.fakes import FakeBackend, loading

running.BEAT_SECONDS, worker.LEASE_SECONDS = 0.2, 2.0
service.load_with_torch = loading(lambda _: FakeBackend(before_forward=lambda _: time.sleep(0.01)))
sys.exit(main(["serve", "--port", "{port}", "--data-dir", {folder!r}]))
"""
REVOKED_SECONDS = 5.0


def serve(port: str, folder: Path, **environment: str) -> AbstractContextManager[RunningServer]:
    code = SERVE.format(port=port, folder=str(folder))
    environment = {"APPLIANCE_MODELS": MODEL, **environment}
    served: AbstractContextManager[RunningServer] = run_process(code=code, environment=environment)
    return served


def port_of(url: str) -> str:
    return url.rpartition(":")[2]


@dataclass
class Pair:
    """Two servers, and what they share.

    Attributes:
        one: A connection to the one.
        two: A connection to the other.
    """

    postgresql: PostgreSQL
    folder: Path
    url: str = ""
    servers: list[RunningServer] = field(default_factory=list)
    clients: list[httpx.Client] = field(default_factory=list)

    def serve(self) -> AbstractContextManager[RunningServer]:
        """One more server, at the port of the first."""
        return serve(
            port_of(self.url) or "0",
            self.folder,
            APPLIANCE_API_KEYS=KEY,
            APPLIANCE_DATABASE_URL=self.postgresql.url,
            APPLIANCE_REUSE_PORT="true",
        )

    def connect(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    @property
    def one(self) -> httpx.Client:
        return self.clients[0]

    @property
    def two(self) -> httpx.Client:
        return self.clients[1]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    postgresql = make_postgresql()
    with ExitStack() as stack:
        stack.callback(postgresql.remove)
        postgresql.start()
        pair = Pair(postgresql, tmp_path_factory.mktemp("data"))
        for _ in range(2):
            pair.servers.append(stack.enter_context(pair.serve()))
            pair.url = pair.servers[0].url
        found: dict[str, httpx.Client] = {}
        for _ in range(100):
            client = stack.enter_context(pair.connect())
            status = ask(client, "GET", "/api/status").json()
            found.setdefault(status["instance"]["session_id"], client)
            if len(found) == 2:
                break
        assert len(found) == 2, "both take connections of the one port"
        pair.clients = [*found.values()]
        for client in pair.clients:
            while client.get("/health").status_code != 200:
                time.sleep(0.1)
        yield pair


def ask(
    client: httpx.Client, method: str, path: str, key: str = KEY, **options: Any
) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return client.request(method, path, headers=headers, **options)


def embed(client: httpx.Client, key: str, text: str = "a") -> httpx.Response:
    return ask(client, "POST", "/v1/embeddings", key, json={"model": MODEL, "input": text})


def upload(client: httpx.Client, content: bytes) -> dict[str, Any]:
    """A new file of requests, as the answer tells of it."""
    files = {"file": ("input.jsonl", content)}
    made: dict[str, Any] = ask(
        client, "POST", "/v1/files", data={"purpose": "batch"}, files=files
    ).json()
    return made


def create(client: httpx.Client, **terms: Any) -> tuple[str, str]:
    """A new token: its id and its secret."""
    answer = ask(client, "POST", "/api/tokens", json={"name": "t", **terms})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    return made["token"]["id"], made["secret"]


def test_a_token_of_one_is_good_at_the_other_until_it_is_revoked(pair: Pair) -> None:
    token_id, key = create(pair.one)
    assert embed(pair.one, key).status_code == embed(pair.two, key).status_code == 200
    assert ask(pair.one, "DELETE", f"/api/tokens/{token_id}").status_code == 200
    end = time.monotonic() + REVOKED_SECONDS
    assert embed(pair.one, key).status_code == 401
    while embed(pair.two, key).status_code != 401:
        assert time.monotonic() < end, "a bound that users rely on"
        time.sleep(0.05)


def test_a_quota_of_requests_is_one_for_both(pair: Pair) -> None:
    limit = 30
    _, key = create(pair.one, requests_per_minute=limit)
    began = time.monotonic()
    passed, refused = 0, [False, False]
    while not all(refused):
        for number, client in enumerate(pair.clients):
            answer = embed(client, key)
            assert answer.headers["x-ratelimit-limit-requests"] == str(limit)
            remaining = int(answer.headers["x-ratelimit-remaining-requests"])
            assert 0 <= remaining < limit
            refused[number] = answer.status_code == 429
            passed += answer.status_code == 200
            if refused[number]:
                assert remaining == 0
                assert int(answer.headers["retry-after"]) >= 1
    flown = (time.monotonic() - began) * limit / 60
    assert limit <= passed <= limit + flown


def test_a_quota_of_tokens_is_one_for_both(pair: Pair) -> None:
    limit, text = 300, "a b c d e f g h"
    _, key = create(pair.one, tokens_per_minute=limit)
    began = time.monotonic()
    used, least, refused = 0, limit, [False, False]
    while not all(refused):
        for number, client in enumerate(pair.clients):
            answer = embed(client, key, text)
            refused[number] = answer.status_code == 429
            least = min(least, int(answer.headers["x-ratelimit-remaining-tokens"]))
            if not refused[number]:
                used += answer.json()["usage"]["total_tokens"]
    flown = (time.monotonic() - began) * limit / 60
    guess, real = 4, 10  # a request passes if its guess is there, and what it took is counted
    assert limit - guess < used <= limit + flown + 2 * (real - guess)
    assert least < real


def test_files_and_batches_are_of_both(pair: Pair) -> None:
    content = lines_of(*map(line, range(20)))
    made = upload(pair.one, content)
    assert ask(pair.two, "GET", f"/v1/files/{made['id']}/content").content == content
    batch = begin(pair.two, made["id"])
    ended = wait_for_end(pair.one, batch["id"])
    assert ended["status"] == "completed"
    for client in pair.clients:
        assert_right(rows(client, ended["output_file_id"]), range(20))


def test_models_that_either_was_told_to_keep_are_kept(pair: Pair) -> None:
    for client, name in zip(pair.clients, ("first", "second"), strict=True):
        body = {"model": name, "persist": True, "eager": False}
        answer = ask(client, "POST", "/api/models", json=body)
        assert answer.status_code == 201, answer.text
    kept = json.loads((pair.folder / "models.json").read_bytes())
    assert [model["model"] for model in kept["models"]] == ["first", "second"]


def test_one_of_both_keeps_its_series(pair: Pair) -> None:
    told = "another server keeps its time series"
    eventually(lambda: sum(told in "".join(server.log) for server in pair.servers) == 1)


class Client:
    """Asks again and again until told to end, on a new connection each time or on one."""

    def __init__(self, url: str, *, keeps: bool) -> None:
        self.statuses: list[int] = []
        self.faults: list[str] = []
        self._url = url
        self._keeps = keeps
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        limits = httpx.Limits() if self._keeps else httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=self._url, timeout=60, limits=limits) as client:
            while not self._end.wait(0.01):
                try:
                    self.statuses.append(embed(client, KEY).status_code)
                except httpx.HTTPError as error:
                    self.faults.append(repr(error))

    def end(self) -> None:
        self._end.set()
        self._thread.join(60)


def test_one_that_joins_and_leaves_costs_no_request(pair: Pair) -> None:
    clients = [Client(pair.url, keeps=keeps) for keeps in (True, False, False)]
    try:
        with pair.serve() as third:
            assert third.process is not None
            before = [len(client.statuses) for client in clients]
            eventually(  # whoever comes to the third waits until it has loaded its model
                lambda: all(len(c.statuses) > n + 20 for c, n in zip(clients, before, strict=True)),
                seconds=60,
            )
            third.process.send_signal(signal.SIGTERM)
            assert third.process.wait(60) == 0
    finally:
        for client in clients:
            client.end()
    assert not [fault for client in clients for fault in client.faults]
    assert {status for client in clients for status in client.statuses} == {200}


def test_a_server_whose_port_others_do_not_share_is_told_so(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        told = "taken by a process that does not share it: one without reuse_port"
        with (
            pytest.raises(AssertionError, match=told),
            serve(port, tmp_path, APPLIANCE_REUSE_PORT="true"),
        ):
            pass


def begin(client: httpx.Client, file_id: str) -> dict[str, Any]:
    body = {
        "input_file_id": file_id,
        "endpoint": "/v1/embeddings",
        "completion_window": "24h",
    }
    batch: dict[str, Any] = ask(client, "POST", "/v1/batches", json=body).json()
    return batch


def wait_for_end(client: httpx.Client, batch_id: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def ended() -> bool:
        found.update(ask(client, "GET", f"/v1/batches/{batch_id}").json())
        return found["status"] in ("completed", "failed", "cancelled", "expired")

    eventually(ended)
    return found


def rows(client: httpx.Client, file_id: str) -> list[dict[str, Any]]:
    text = ask(client, "GET", f"/v1/files/{file_id}/content").text
    return [json.loads(row) for row in text.splitlines()]


def test_a_batch_of_one_that_is_killed_is_finished_by_the_other(pair: Pair) -> None:
    """The last, as it leaves one server."""
    count = 4000
    content = lines_of(*map(line, range(count)))
    made = upload(pair.one, content)
    batch = begin(pair.one, made["id"])
    part = pair.folder / "files" / f"{batch['id']}.part"
    eventually(lambda: part.exists() and part.stat().st_size > 0)
    holder = int(part.with_suffix(".lock").read_text())
    os.kill(holder, signal.SIGKILL)
    (killed,) = (s.process for s in pair.servers if s.process and s.process.pid == holder)
    killed.wait(30)
    with pair.connect() as left:
        ended = wait_for_end(left, batch["id"])
        assert ended["status"] == "completed"
        assert_right(rows(left, ended["output_file_id"]), range(count))
