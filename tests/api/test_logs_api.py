# SPDX-License-Identifier: Apache-2.0
"""``GET /api/logs``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.management import api, assert_error, eventually
from tests.conftest import REAL_MODEL, RunningServer, run_process


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with run_process("--log-level", "debug") as server:
        yield server


def logs(server: RunningServer, query: str = "") -> dict[str, Any]:
    answer = api(server, "GET", f"logs?{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def messages(found: dict[str, Any]) -> list[str]:
    return [entry["message"] for entry in found["entries"]]


def test_the_log_is_told_from_the_start_on(server: RunningServer) -> None:
    found = logs(server, "limit=5000&level=info")
    assert any("Application startup complete" in message for message in messages(found))
    assert any(message.startswith(f"model {REAL_MODEL}: ready") for message in messages(found))
    assert {entry["level"] for entry in found["entries"]} <= {"info", "warning", "error"}
    ids = [entry["id"] for entry in found["entries"]]
    assert ids == sorted(ids)
    assert found["missed"] == 0
    assert set(found["entries"][0]) == {"id", "time", "level", "logger", "message", "trace_id"}


def test_a_request_has_a_line_at_debug_without_its_query(server: RunningServer) -> None:
    cursor = logs(server)["cursor"]
    answer = server.embed(model=REAL_MODEL, input="planted text")
    httpx.get(f"{server.url}/nowhere/planted%0Apath?planted=query", headers={"x-request-id": "r1"})
    eventually(lambda: len(logs(server, f"cursor={cursor}&search=/")["entries"]) >= 2)
    found = logs(server, f"cursor={cursor}&search=APPLIANCE.CONTEXT")["entries"]
    assert [entry["level"] for entry in found] == ["debug", "debug"]
    first, second = (entry["message"] for entry in found)
    assert first.startswith("POST /v1/embeddings 200, ")
    assert answer.headers["x-request-id"] in first
    assert second.startswith("GET /nowhere/planted%0Apath 404, ")
    assert second.endswith("ms, r1")
    everything = "".join(messages(logs(server, "limit=5000"))) + "".join(server.log)
    assert "planted text" not in everything
    assert "query" not in second


def test_those_who_watch_leave_no_trace(server: RunningServer) -> None:
    cursor = logs(server)["cursor"]
    for path in ("/api/status", "/api/series", "/api/models", "/health", "/ready", "/api/logs"):
        httpx.get(server.url + path)
    later = logs(server, f"cursor={cursor}")
    assert not [entry for entry in later["entries"] if entry["logger"] == "appliance.context"]


def test_a_cursor_pages_through_the_log(server: RunningServer) -> None:
    whole = logs(server, "limit=5000")["entries"]
    paged: list[dict[str, Any]] = []
    cursor = 0
    while True:
        found = logs(server, f"cursor={cursor}&limit=3")
        if not found["entries"]:
            break
        assert len(found["entries"]) <= 3
        cursor = found["cursor"]
        paged += found["entries"]
    assert paged[: len(whole)] == whole
    assert [e["id"] for e in logs(server, "limit=2")["entries"]] == [e["id"] for e in paged[-2:]]


def test_a_cursor_moves_on_past_what_was_searched_in_vain(server: RunningServer) -> None:
    found = logs(server, "cursor=0&search=no+such+text")
    assert found["entries"] == []
    assert found["cursor"] >= logs(server, "limit=1")["entries"][0]["id"]


@pytest.mark.parametrize(
    ("query", "param", "message"),
    [
        ("cursor=-1", "cursor", ">= 0"),
        ("cursor=x", "cursor", "Expected `int"),
        ("level=bad", "level", "must be one of 'debug', 'info', 'warning', 'error'"),
        ("limit=0", "limit", ">= 1"),
        ("limit=5001", "limit", "<= 5000"),
        (f"search={'a' * 201}", "search", "length <= 200"),
        ("after=3", "after", "Known are cursor, level, search, limit"),
        ("level=info&level=debug", "level", "is there twice"),
    ],
)
def test_a_bad_parameter_is_named(
    server: RunningServer, query: str, param: str, message: str
) -> None:
    assert_error(api(server, "GET", f"logs?{query}"), 400, message, param)


def test_the_first_key_is_on_the_console_and_nowhere_else(tmp_path: Path) -> None:
    with run_process("--auth", "required", "--data-dir", str(tmp_path)) as server:
        (told,) = [line for line in server.log if "shown only here" in line]
        key = told.split()[-1]
        headers = {"authorization": f"Bearer {key}"}
        answer = httpx.get(f"{server.url}/api/logs?limit=5000", headers=headers)
        assert answer.status_code == 200
        assert answer.json()["entries"]
        assert key not in answer.text
