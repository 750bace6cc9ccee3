# SPDX-License-Identifier: Apache-2.0
"""``appliance token`` on a store that a server uses at the same time, and on one that none does."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from appliance.cli import main
from tests.api.access import KEY, ask, embed, guarded
from tests.conftest import run_in_thread

Output = pytest.CaptureFixture[str]


def token(folder: Path, *arguments: str) -> int:
    return main(["token", *arguments, "--data-dir", str(folder)])


def listed(folder: Path, capsys: Output) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert token(folder, "list", "--json") == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["tokens"]
    return found


def test_a_token_is_made_for_a_server_that_runs(tmp_path: Path, capsys: Output) -> None:
    with run_in_thread(guarded(tmp_path)) as server:
        assert token(tmp_path, "create", "ci", "--model", "small") == 0
        told = capsys.readouterr()
        secret = told.out.strip()
        assert embed(server, secret).status_code == 200
        assert embed(server, secret, model="other").status_code == 403
        (found,) = ask(server, KEY, "GET", "/api/tokens").json()["tokens"]
        assert (found["name"], found["models"], found["scopes"]) == ("ci", ["small"], ["embed"])
        assert found["id"] in told.err
        assert secret not in told.err


def test_every_flag_has_its_field(tmp_path: Path, capsys: Output) -> None:
    flags = "--scope embed --scope admin --model a --model b --expires-in 30d"
    flags += " --requests-per-minute 5 --tokens-per-minute 7"
    assert token(tmp_path, "create", "all of them", *flags.split(), "--json") == 0
    made = json.loads(capsys.readouterr().out)
    (found,) = listed(tmp_path, capsys)
    assert found == made["token"]
    assert (found["scopes"], found["models"]) == (["admin", "embed"], ["a", "b"])
    assert (found["requests_per_minute"], found["tokens_per_minute"]) == (5, 7)
    left = datetime.fromisoformat(found["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)


def test_a_token_is_revoked(tmp_path: Path, capsys: Output) -> None:
    token(tmp_path, "create", "one")
    (found,) = listed(tmp_path, capsys)
    assert token(tmp_path, "revoke", found["id"]) == 0
    assert "is revoked" in capsys.readouterr().out
    assert listed(tmp_path, capsys)[0]["state"] == "revoked"
    assert token(tmp_path, "revoke", "none") == 1
    assert "there is no token 'none'" in capsys.readouterr().err


def test_tokens_are_listed_for_people_without_their_secrets(tmp_path: Path, capsys: Output) -> None:
    token(tmp_path, "create", "[red]ci")
    secret = capsys.readouterr().out.strip()
    assert token(tmp_path, "list") == 0
    told = capsys.readouterr().out
    assert "[red]ci" in told
    assert secret[:12] in told
    assert secret not in told


def test_who_is_not_asked_for_tokens_is_told(tmp_path: Path, capsys: Output) -> None:
    assert token(tmp_path, "create", "x") == 0
    assert "auth=required" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["x", "--expires-in", "5w"], "such as 30d, not '5w'"),
        (["x", "--expires-in", "0d"], "has passed"),
        (["x", "--expires-in", "999999999d"], "too long"),
        (["x", "--requests-per-minute", "0"], "requests-per-minute: Expected `int` >= 1"),
        (["x", "--model", ""], "model: Expected `str` of length >= 1"),
        ([""], "name: Expected `str` of length >= 1"),
    ],
)
def test_bad_flags_are_refused(
    tmp_path: Path, capsys: Output, flags: list[str], message: str
) -> None:
    assert token(tmp_path, "create", *flags) == 2
    assert message in capsys.readouterr().err
    assert not listed(tmp_path, capsys)


def test_without_a_store_it_says_what_to_set(capsys: Output) -> None:
    assert main(["token", "create", "x"]) == 2
    assert "set data_dir, a folder, or database_url" in capsys.readouterr().err


def test_a_store_that_cannot_be_written_is_told_of(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "file").write_text("")
    assert token(tmp_path / "file", "create", "x") == 1
    assert "cannot be read or written" in capsys.readouterr().err
