# SPDX-License-Identifier: Apache-2.0
"""A server that is killed in the middle of its work, and started again."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from tests.api.access import KEY, ask, create, embed
from tests.conftest import REAL_MODEL, RunningServer, run_process
from tests.unit.tickets import until

KILLS = 2
TOKENS_OF_A_TEXT = 3
"""One word, between a first and a last special token."""


class Books:
    """What the server has acknowledged, and what was asked of it."""

    def __init__(self) -> None:
        self.made: dict[str, str] = {}
        """Tokens whose making was answered: secrets by id."""
        self.revoked: set[str] = set()
        """Those whose end was answered."""
        self.in_doubt: set[str] = set()
        """Tokens and models whose end was asked for and never answered."""
        self.added: set[str] = set()
        self.removed: set[str] = set()
        self.asked = 0
        """Requests that were sent with the client's token, answered or not."""
        self.answered = 0


class Load:
    """Clients that go on until the server is gone."""

    def __init__(self, server: RunningServer, books: Books, client: str) -> None:
        self.rounds = 0
        self._server = server
        self._books = books
        self._lock = threading.Lock()
        work = [self._make_and_revoke, self._add_and_remove, *[lambda: self._embed(client)] * 3]
        self._threads = [threading.Thread(target=self._repeat, args=(each,)) for each in work]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _repeat(self, work: Callable[[], None]) -> None:
        try:
            while True:
                work()
        except httpx.TransportError:
            return

    def _embed(self, client: str) -> None:
        with self._lock:
            self._books.asked += 1
        answer = embed(self._server, client, "cat", REAL_MODEL)
        assert answer.status_code == 200, answer.text
        with self._lock:
            self._books.answered += 1

    def _make_and_revoke(self) -> None:
        made = create(self._server)
        id_ = made["token"]["id"]
        self._books.made[id_] = made["secret"]
        if len(self._books.made) % 2:
            self._books.in_doubt.add(id_)
            assert ask(self._server, KEY, "DELETE", f"/api/tokens/{id_}").status_code == 200
            self._books.in_doubt.remove(id_)
            self._books.revoked.add(id_)
        self.rounds += 1

    def _add_and_remove(self) -> None:
        name = f"model-{next(_numbers)}"
        body = {"model": f"embedded:{REAL_MODEL}", "name": name, "eager": False, "persist": True}
        assert ask(self._server, KEY, "POST", "/api/models", json=body).status_code == 201
        self._books.added.add(name)
        if len(self._books.added) % 3:  # so that there are not too many of them
            self._books.in_doubt.add(name)
            path = f"/api/models/{name}?persist=true"
            assert ask(self._server, KEY, "DELETE", path).status_code == 200
            self._books.in_doubt.remove(name)
            self._books.removed.add(name)


_numbers = count()


def tokens_of(server: RunningServer) -> dict[str, dict[str, Any]]:
    answer = ask(server, KEY, "GET", "/api/tokens")
    return {token["id"]: token for token in answer.json()["tokens"]}


def models_of(server: RunningServer) -> set[str]:
    answer = ask(server, KEY, "GET", "/api/models")
    return {model["name"] for model in answer.json()["models"]}


def check(server: RunningServer, books: Books) -> None:
    """Hold what a server knows against what it has acknowledged before it was killed."""
    tokens = tokens_of(server)
    for id_ in books.made:
        if id_ in books.revoked:
            assert tokens[id_]["state"] == "revoked"
        elif id_ not in books.in_doubt:
            assert tokens[id_]["state"] == "active"
    for id_ in [id_ for id_ in books.made if tokens[id_]["state"] == "active"][-3:]:
        assert embed(server, books.made[id_], "cat", REAL_MODEL).status_code == 200
    models = models_of(server)
    assert books.added - books.removed - books.in_doubt <= models
    assert not books.removed & models


def kill_under_load(server: RunningServer, books: Books, client: dict[str, Any], seen: int) -> int:
    """Kill a server once it has written down more requests than were seen before; how many."""
    assert server.process is not None
    check(server, books)

    def used() -> int:
        return int(tokens_of(server)[client["token"]["id"]]["requests"])

    before = books.answered
    load = Load(server, books, client["secret"])
    until(lambda: used() > seen and load.rounds > 5 and books.answered > before + 20)
    seen = used()
    server.process.kill()
    load.join()
    server.process.wait(30)
    return seen


def test_what_was_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    books = Books()
    environment = {"APPLIANCE_API_KEYS": KEY, "APPLIANCE_DATA_DIR": str(tmp_path)}
    with run_process(environment=environment) as server:
        client = create(server)
    seen = 0
    for _ in range(KILLS):
        with run_process(environment=environment) as server:
            seen = kill_under_load(server, books, client, seen)
        with closing(sqlite3.connect(tmp_path / "appliance.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with run_process(environment=environment) as server:
        check(server, books)
        total = tokens_of(server)[client["token"]["id"]]
        assert seen <= total["requests"] <= books.asked
        assert total["tokens"] <= books.asked * TOKENS_OF_A_TEXT
        assert total["tokens"] % TOKENS_OF_A_TEXT == 0
