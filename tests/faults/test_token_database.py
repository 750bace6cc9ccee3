# SPDX-License-Identifier: Apache-2.0
"""A database of tokens that is not there yet, goes, and comes back."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.api.access import KEY, ask, create, embed, guarded
from tests.api.management import assert_error, eventually
from tests.conftest import run_in_thread
from tests.postgresql import PostgreSQL, make_postgresql


@pytest.fixture
def postgresql() -> Iterator[PostgreSQL]:
    server = make_postgresql()
    try:
        yield server
    finally:
        server.remove()


def test_postgresql_comes_goes_and_comes_back(
    postgresql: PostgreSQL, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "appliance.access.sharing")
    with run_in_thread(guarded(database_url=postgresql.url)) as server:
        assert embed(server, KEY).status_code == 200, "keys of the settings need no database"
        refused = embed(server, "unknown, perhaps")
        assert_error(refused, 503, "database of tokens cannot be reached")
        assert refused.headers["retry-after"] == "1"
        postgresql.start()
        eventually(lambda: ask(server, KEY, "GET", "/api/tokens").status_code == 200)
        made = create(server)
        assert embed(server, made["secret"], "a b c").status_code == 200
        limited = create(server, requests_per_minute=5)["secret"]
        assert embed(server, limited).status_code == 200
        postgresql.stop()
        for _ in range(3):
            assert embed(server, made["secret"]).status_code == 200, "a known token stays good"
        statuses = [embed(server, limited).status_code for _ in range(6)]
        assert statuses[:3] == [200] * 3, "quotas are counted without the database"
        assert set(statuses) == {200, 429}
        assert caplog.text.count("this process counts quotas alone") == 1
        assert embed(server, "unknown, perhaps").status_code == 503
        answer = ask(server, KEY, "DELETE", f"/api/tokens/{made['token']['id']}")
        assert_error(answer, 503, "cannot be read or written now")
        postgresql.start()
        path = f"/api/tokens/{made['token']['id']}"
        eventually(lambda: ask(server, KEY, "GET", path).status_code == 200)
        eventually(lambda: ask(server, KEY, "GET", path).json()["requests"] == 4)
        eventually(lambda: "quotas are shared again" in caplog.text)
        assert ask(server, KEY, "DELETE", path).json()["state"] == "revoked"
        assert embed(server, made["secret"]).status_code == 401
    assert "planted-password" not in caplog.text


def test_two_instances_share_tokens(postgresql: PostgreSQL) -> None:
    postgresql.start()
    settings = guarded(database_url=postgresql.url)
    with run_in_thread(settings) as one, run_in_thread(settings) as two:
        made = create(one)
        assert embed(two, made["secret"]).status_code == 200
        ask(one, KEY, "DELETE", f"/api/tokens/{made['token']['id']}")
        eventually(lambda: embed(two, made["secret"]).status_code == 401)
