# SPDX-License-Identifier: Apache-2.0
"""When keys are asked for, what they may use, and where their secrets do not turn up."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.access import door
from appliance.access.attempts import MOST_FAILURES, FailedTries
from appliance.access.door import is_open
from appliance.cli import main
from appliance.settings import Settings
from tests.api.access import KEY, ask, create, embed, guarded, secret
from tests.api.management import assert_error
from tests.conftest import RunningServer, run_in_thread, run_process

FIRST = re.compile(r"shown only here: (eap_\S{43})\n")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"host": "127.0.0.1"}, True),
        ({"host": "127.0.0.9"}, True),
        ({"host": "::1"}, True),
        ({"host": "localhost"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "::"}, False),
        ({"host": "192.0.2.1"}, False),
        ({"host": "example.com"}, False),
        ({"api_keys": ("k",)}, False),
        ({"auth": "required"}, False),
        ({"auth": "none", "host": "0.0.0.0"}, True),
        ({"auth": "none", "api_keys": ("k",)}, True),
    ],
)
def test_keys_are_asked_for_off_loopback_and_where_there_are_some(
    fields: dict[str, Any], expected: bool
) -> None:
    assert is_open(Settings(**fields)) is expected


def test_an_open_server_takes_any_key_or_none(fake_server: RunningServer) -> None:
    for key in (None, "fake", "x" * 5000):
        assert embed(fake_server, key).status_code == 200
        assert ask(fake_server, key, "GET", "/api/status").status_code == 200


def test_off_loopback_a_first_token_is_made_printed_once_and_kept(tmp_path: Path) -> None:
    flags = ["--host", "0.0.0.0", "--data-dir", str(tmp_path)]

    def url(server: RunningServer) -> RunningServer:
        return RunningServer(server.url.replace("0.0.0.0", "127.0.0.1"), server.log)

    with run_process(*flags) as started:
        server = url(started)
        assert_error(ask(server, None, "GET", "/v1/models"), 401, "Missing bearer")
        (first,) = FIRST.findall("".join(started.log))
        assert ask(server, first, "GET", "/api/tokens").json()["tokens"][0]["name"] == "first"
    with run_process(*flags) as started:
        assert ask(url(started), first, "GET", "/api/status").status_code == 200
        assert "eap_" not in "".join(started.log)


def test_without_a_store_a_first_token_is_good_until_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with run_in_thread(guarded(api_keys=(), auth="required")) as server:
        (first,) = FIRST.findall(caplog.text)
        assert "set data_dir" in caplog.text
        assert ask(server, first, "GET", "/api/status").status_code == 200
        assert embed(server, "other").status_code == 401


def test_where_there_are_keys_no_first_token_is_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with run_in_thread(guarded(tmp_path)) as server:
        assert ask(server, KEY, "GET", "/api/tokens").json() == {"tokens": []}
    assert "eap_" not in caplog.text


def test_requests_by_the_minute(tmp_path: Path) -> None:
    with run_in_thread(guarded(tmp_path)) as server:
        key, other = (secret(server, requests_per_minute=2) for _ in range(2))
        answer = embed(server, key)
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert answer.headers["x-ratelimit-remaining-requests"] == "1"
        assert re.fullmatch(r"[\d.]+s", answer.headers["x-ratelimit-reset-requests"])
        assert "x-ratelimit-limit-tokens" not in answer.headers
        assert ask(server, key, "GET", "/v1/models").status_code == 200, "only work is counted"
        malformed = ask(server, key, "POST", "/v1/embeddings", content=b"{")
        assert malformed.status_code == 400
        assert malformed.headers["x-ratelimit-remaining-requests"] == "0", "faulty ones count"
        refused = embed(server, key)
        assert_error(refused, 429, "Rate limit reached for this key on requests per min")
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert embed(server, other).status_code == 200
        assert "x-ratelimit-limit-requests" not in embed(server, KEY).headers


def test_tokens_by_the_minute_are_those_that_the_model_read(tmp_path: Path) -> None:
    with run_in_thread(guarded(tmp_path)) as server:
        key = secret(server, tokens_per_minute=60)
        answer = embed(server, key, "a b c d e f g h")
        assert answer.json()["usage"]["total_tokens"] == 10
        assert answer.headers["x-ratelimit-limit-tokens"] == "60"
        assert answer.headers["x-ratelimit-remaining-tokens"] == "50"
        failed = embed(server, key, "a " * 50)  # longer than the model reads
        assert failed.status_code == 400
        assert int(failed.headers["x-ratelimit-remaining-tokens"]) >= 50, "a failure is paid back"
        for _ in range(2):
            assert embed(server, key, "a " * 25).status_code == 200
        refused = embed(server, key, "a " * 25)
        assert_error(refused, 429, "Rate limit reached for this key on tokens per min")
        assert refused.json()["error"]["type"] == "tokens"
        assert int(refused.headers["retry-after-ms"]) > 0


def test_failed_tries_are_limited_by_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long the tries take here, none is forgiven meanwhile.
    monkeypatch.setattr(door, "FailedTries", partial(FailedTries, clock=lambda: 0.0))
    with run_in_thread(guarded(tmp_path)) as server:
        key = secret(server)
        assert embed(server, key).status_code == 200
        statuses = [embed(server, f"guess {n}").status_code for n in range(MOST_FAILURES + 5)]
        assert statuses[:MOST_FAILURES] == [401] * MOST_FAILURES
        refused = embed(server, "one more")
        assert_error(refused, 429, "Too many requests with incorrect API keys")
        assert int(refused.headers["retry-after"]) >= 1
        for good in (key, KEY):
            assert embed(server, good).status_code == 200
        assert httpx.get(f"{server.url}/health").status_code == 200


TELLING = (
    *(f"/api/{name}" for name in ("tokens", "status", "models", "config", "config/schema")),
    *("/api/config?download=1", "/api/logs?level=debug&limit=1000", "/api/series?window=900"),
    *("/metrics", "/health", "/ready", "/v1/models", "/nowhere", f"/nowhere?key={'x' * 9}"),
)
"""Routes that tell of the instance; one that is not served tells so."""


def test_secrets_turn_up_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database = "postgresql://u:planted-password@127.0.0.1:1/x"
    monkeypatch.setenv("APPLIANCE_API_KEYS", KEY)
    monkeypatch.setenv("APPLIANCE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("APPLIANCE_HF_TOKEN", "hf_planted")
    with run_process("--log-level", "debug") as server:
        made = create(server)
        hidden = made["secret"].removeprefix(made["token"]["prefix"])
        answers = [
            embed(server, made["secret"]),
            embed(server, made["secret"] + "x"),
            embed(server, KEY + "x"),
            embed(server, made["secret"], model="none"),
            ask(server, made["secret"], "GET", "/api/tokens"),
            ask(server, made["secret"], "POST", "/v1/embeddings", content=b"{"),
            *(ask(server, KEY, "GET", path) for path in TELLING),
            ask(server, KEY, "DELETE", f"/api/tokens/{made['token']['id']}"),
            embed(server, made["secret"]),
        ]
    told = [answer.text + repr(answer.headers.raw) for answer in answers] + server.log
    told += [f.read_bytes().decode("latin-1") for f in tmp_path.iterdir()]
    monkeypatch.setenv("APPLIANCE_DATABASE_URL", database)
    for action in ("show", "export", "validate"):
        assert main(["config", action]) == 0
    monkeypatch.setenv("APPLIANCE_DATABASE_URL", database.replace(":1/", ":planted-port/"))
    assert main(["config", "validate"]) == 2
    captured = capsys.readouterr()
    assert "database_url" in captured.out
    assert "database_url: its host or port is malformed" in captured.err
    told += [captured.out, captured.err]
    for planted in (KEY, hidden, "hf_planted", "planted-password", "planted-port"):
        assert not [text for text in told if planted in text], planted


def test_an_export_names_the_database_it_leaves_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APPLIANCE_DATABASE_URL", "postgresql://u:p@h/x")
    assert main(["config", "export"]) == 0
    assert json.loads(capsys.readouterr().out)["secrets_omitted"] == ["database_url"]


def test_pages_of_other_origins_may_call_only_where_that_is_set() -> None:
    origin = {"origin": "https://app.example.com"}
    asked = {
        **origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    with run_in_thread(guarded()) as server:
        answer = ask(server, KEY, "GET", "/v1/models", headers=origin)
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert ask(server, None, "OPTIONS", "/v1/embeddings", headers=asked).status_code != 204
    with run_in_thread(guarded(cors_allow_origins=("https://app.example.com",))) as server:
        for key in (KEY, "wrong"):
            answer = ask(server, key, "GET", "/v1/models", headers=origin)
            assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
            assert "x-request-id" in answer.headers["access-control-expose-headers"]
        preflight = ask(server, None, "OPTIONS", "/v1/embeddings", headers=asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "https://app.example.com"
        evil = ask(server, KEY, "GET", "/v1/models", headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in evil.headers


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("DATABASE_URL", "mysql://planted@h/x", "it must begin with postgresql://"),
        ("CORS_ALLOW_ORIGINS", "app.example.com", "is no origin"),
        ("CORS_ALLOW_ORIGINS", "https://app.example.com/path", "is no origin"),
        ("AUTH", "off", "'auto', 'required' or 'none'"),
    ],
)
def test_bad_settings_are_told_of(
    variable: str,
    value: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(f"APPLIANCE_{variable}", value)
    assert main(["config", "validate"]) == 2
    told = capsys.readouterr().err
    assert f"{variable.lower()}" in told
    assert message in told
    assert "planted" not in told
