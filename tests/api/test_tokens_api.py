# SPDX-License-Identifier: Apache-2.0
"""Tokens made, listed, used and revoked on a real port, in a real SQLite file."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.database_file import database_file
from appliance.settings import Settings
from tests.api.access import KEY, ask, create, embed, guarded, secret
from tests.api.management import assert_error, eventually
from tests.conftest import RunningServer, run_in_thread


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with run_in_thread(guarded(tmp_path_factory.mktemp("data"))) as running:
        yield running


def listed(server: RunningServer, token_id: str) -> dict[str, Any]:
    found = ask(server, KEY, "GET", "/api/tokens").json()["tokens"]
    (token,) = [token for token in found if token["id"] == token_id]
    single = ask(server, KEY, "GET", f"/api/tokens/{token_id}").json()
    assert set(single) == set(token)
    assert (single["id"], single["name"]) == (token_id, token["name"])
    return dict(token)


def test_a_token_is_made_used_listed_and_revoked(server: RunningServer) -> None:
    answer = ask(server, KEY, "POST", "/api/tokens", json={"name": "ci"})
    assert answer.status_code == 201
    made = answer.json()
    token = made["token"]
    assert answer.headers["location"] == f"/api/tokens/{token['id']}"
    assert answer.headers["cache-control"] == "no-store"
    assert made["secret"].startswith(token["prefix"])
    assert (token["scopes"], token["models"], token["state"]) == (["embed"], None, "active")
    assert embed(server, made["secret"]).status_code == 200
    assert listed(server, token["id"])["name"] == "ci"
    gone = ask(server, KEY, "DELETE", f"/api/tokens/{token['id']}")
    assert gone.json()["state"] == "revoked"
    assert_error(embed(server, made["secret"]), 401, "Incorrect API key provided")
    assert listed(server, token["id"])["revoked_at"] == gone.json()["revoked_at"]


def test_a_secret_is_shown_once(server: RunningServer) -> None:
    made = create(server)
    rest = made["secret"].removeprefix(made["token"]["prefix"])
    for path in ("/api/tokens", f"/api/tokens/{made['token']['id']}", "/api/status"):
        assert rest not in ask(server, KEY, "GET", path).text


def test_scopes_open_their_routes_only(server: RunningServer) -> None:
    embeds, manages = secret(server), secret(server, scopes=["admin"])
    assert embed(server, embeds).status_code == 200
    assert ask(server, embeds, "GET", "/v1/models").status_code == 200
    for method, path in (
        ("GET", "/api/status"),
        ("GET", "/api/models"),
        ("GET", "/api/tokens"),
        ("POST", "/api/tokens"),
        ("POST", "/api/models/other/unload"),
    ):
        refused = ask(server, embeds, method, path)
        assert_error(refused, 403, "lacks the scope 'admin'")
        assert refused.json()["error"]["code"] == "insufficient_permissions"
    assert ask(server, manages, "GET", "/api/status").status_code == 200
    assert embed(server, manages).status_code == 200, "admin includes embed"


@pytest.mark.parametrize("allowed", ["fake/model", "small"])
def test_a_token_is_good_for_its_models_only(server: RunningServer, allowed: str) -> None:
    key = secret(server, models=[allowed, "not served"])
    for name in ("fake/model", "small"):
        assert embed(server, key, model=name).status_code == 200
        assert ask(server, key, "GET", f"/v1/models/{name}").status_code == 200
        body = {"input": "a"}
        assert ask(server, key, "POST", f"/{name}/v1/embeddings", json=body).status_code == 200
    answer = ask(server, key, "GET", "/v1/models")
    assert [model["id"] for model in answer.json()["data"]] == ["fake/model"]
    refusals = [
        embed(server, key, model="other"),
        ask(server, key, "POST", "/other/v1/embeddings", json={"input": "a"}),
        ask(server, key, "GET", "/v1/models/other"),
        ask(server, key, "GET", "/other/v1/models"),
    ]
    for refused in refusals:
        assert_error(refused, 403, "does not have access to the model 'other'", "model")
        assert refused.json()["error"]["code"] == "model_not_found"
    assert_error(embed(server, key, model="none"), 404, "does not exist", "model")


def test_an_expired_token_is_refused(server: RunningServer) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    made = create(server, expires_at=soon.isoformat())
    assert embed(server, made["secret"]).status_code == 200
    eventually(lambda: listed(server, made["token"]["id"])["state"] == "expired")
    assert embed(server, made["secret"]).status_code == 401


def test_unknown_expired_and_revoked_keys_get_the_same_answer(server: RunningServer) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    expired = create(server, expires_at=soon.isoformat())
    revoked = create(server)
    ask(server, KEY, "DELETE", f"/api/tokens/{revoked['token']['id']}")
    eventually(lambda: listed(server, expired["token"]["id"])["state"] == "expired")
    varying = {"date", "x-request-id", "openai-processing-ms"}
    answers = set()
    for key in ("eap_" + "x" * 43, expired["secret"], revoked["secret"], f"{KEY}x", "ü€"):
        raw = {"authorization": b"Bearer " + key.encode()}
        answer = ask(server, None, "GET", "/v1/models", headers=raw)
        headers = {name: v for name, v in answer.headers.items() if name not in varying}
        answers.add((answer.status_code, answer.text, tuple(sorted(headers.items()))))
    assert len(answers) == 1
    ((status, text, headers_seen),) = answers
    assert status == 401
    assert "invalid_api_key" in text
    assert ("www-authenticate", "Bearer") in headers_seen


# fields: param, part of the message
REFUSED: dict[str, tuple[Any, str | None, str]] = {
    "no name": ({}, "name", "You must provide 'name'"),
    "an empty name": ({"name": ""}, "name", "length >= 1"),
    "a blank name": ({"name": " "}, "name", "text that can be printed"),
    "a name of control characters": ({"name": "a\nb"}, "name", "text that can be printed"),
    "a long name": ({"name": "x" * 201}, "name", "length <= 200"),
    "an unknown field": ({"name": "x", "scope": "embed"}, "scope", "Known are name, scopes"),
    "an unknown scope": ({"name": "x", "scopes": ["root"]}, "scopes[0]", "'embed', 'admin'"),
    "no scope": ({"name": "x", "scopes": []}, "scopes", "length >= 1"),
    "no models": ({"name": "x", "models": []}, "models", "length >= 1"),
    "models of another type": ({"name": "x", "models": "a"}, "models", "Expected `array | null`"),
    "a past moment": (
        {"name": "x", "expires_at": "2020-01-01T00:00:00Z"},
        "expires_at",
        "has passed",
    ),
    "no time zone": ({"name": "x", "expires_at": "2999-01-01T00:00:00"}, "expires_at", "timezone"),
    "no moment": ({"name": "x", "expires_at": "soon"}, "expires_at", "RFC3339"),
    "a quota of 0": ({"name": "x", "requests_per_minute": 0}, "requests_per_minute", ">= 1"),
    "too large a quota": ({"name": "x", "tokens_per_minute": 2**64}, "tokens_per_minute", ""),
    "a list": ([], None, "Expected `object`"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_requests_are_refused(server: RunningServer, case: str) -> None:
    fields, param, message = REFUSED[case]
    before = ask(server, KEY, "GET", "/api/tokens").text
    answer = ask(server, KEY, "POST", "/api/tokens", json=fields)
    assert_error(answer, 400, message, param)
    assert ask(server, KEY, "GET", "/api/tokens").text == before


def test_what_is_not_there_cannot_be_revoked(server: RunningServer) -> None:
    for method in ("GET", "DELETE"):
        assert_error(ask(server, KEY, method, "/api/tokens/none"), 404, "no token 'none'")


def test_without_a_store_the_answer_says_what_to_set() -> None:
    with run_in_thread(guarded()) as server:
        assert embed(server, KEY).status_code == 200
        for answer in (
            ask(server, KEY, "POST", "/api/tokens", json={"name": "x"}),
            ask(server, KEY, "GET", "/api/tokens"),
            ask(server, KEY, "DELETE", "/api/tokens/x"),
        ):
            assert_error(answer, 409, "set data_dir, a folder, or database_url")


def test_tokens_and_their_totals_outlive_a_restart(tmp_path: Path) -> None:
    with run_in_thread(guarded(tmp_path)) as server:
        made = create(server, requests_per_minute=100)
        for _ in range(3):
            embed(server, made["secret"], "a b c")
    with run_in_thread(guarded(tmp_path)) as server:
        token = listed(server, made["token"]["id"])
        assert (token["requests"], token["tokens"]) == (3, 15)
        assert token["last_used_at"]
        assert embed(server, made["secret"]).status_code == 200


def test_totals_are_written_while_the_server_runs(server: RunningServer) -> None:
    made = create(server)
    embed(server, made["secret"], "a b c")
    eventually(lambda: listed(server, made["token"]["id"])["tokens"] == 5)


def test_a_token_that_another_process_revokes_is_refused_within_five_seconds(
    tmp_path: Path,
) -> None:
    with run_in_thread(guarded(tmp_path)) as server:
        made = create(server)
        stays = secret(server)
        assert embed(server, made["secret"]).status_code == 200
        command = [sys.executable, "-m", "appliance", "token", "revoke", made["token"]["id"]]
        subprocess.run([*command, "--data-dir", str(tmp_path)], check=True, capture_output=True)
        time.sleep(5)
        assert embed(server, made["secret"]).status_code == 401
        assert embed(server, stays).status_code == 200


def tables(folder: Path) -> set[str]:
    with closing(sqlite3.connect(database_file(folder))) as connection:
        rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {name for (name,) in rows}


def test_in_open_mode_tokens_can_be_made_and_none_is_asked_for(tmp_path: Path) -> None:
    with run_in_thread(Settings(models=guarded().models, data_dir=tmp_path)) as server:
        assert "tokens" not in tables(tmp_path), "a store is made when it is wanted"
        assert ask(server, None, "POST", "/api/tokens", json={"name": "x"}).status_code == 201
        assert embed(server, None).status_code == 200
