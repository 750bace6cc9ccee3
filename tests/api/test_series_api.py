# SPDX-License-Identifier: Apache-2.0
"""``GET /api/series``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.api.access import KEY, ask, embed, guarded, secret
from tests.api.management import api, assert_error, eventually
from tests.conftest import RunningServer, run_in_thread

NAMES = [
    "requests",
    "tokens",
    "latency",
    "queue",
    "cpu",
    "memory",
    "network",
    "disk",
    "gpu-utilization",
    "gpu-memory",
    "gpu-temperature",
]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with run_in_thread() as server:
        server.embed(model="fake/model", input="a b c")
        server.embed(model="none", input="a")
        yield server


def series(server: RunningServer, query: str = "") -> dict[str, Any]:
    answer = api(server, "GET", f"series?{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def line(found: dict[str, Any], name: str) -> list[float | None]:
    (series,) = found["series"]
    values: list[float | None] = next(
        part["values"] for part in series["lines"] if part["name"] == name
    )
    return values


@pytest.mark.parametrize(
    ("window", "step"), [(60, 5), (900, 5), (3600, 5), (3601, 60), (86400, 60)]
)
def test_every_series_has_one_value_for_each_time(
    server: RunningServer, window: int, step: int
) -> None:
    found = series(server, f"window={window}")
    assert (found["window"], found["step"]) == (window, step)
    assert abs(found["now"] - time.time()) < 60
    assert [s["name"] for s in found["series"]] == NAMES
    for one in found["series"]:
        if not one["available"]:
            assert one["note"]
            assert one["times"] == one["lines"] == []
            continue
        assert one["note"] == ""
        assert one["title"]
        assert one["unit"]
        assert len(one["times"]) == window // step
        assert {b - a for a, b in zip(one["times"], one["times"][1:], strict=False)} <= {step}
        assert found["now"] - 2 * step - 5 <= one["times"][-1] <= found["now"] + step
        for drawn in one["lines"]:
            assert len(drawn["values"]) == len(one["times"])


def test_the_default_window_is_a_quarter_of_an_hour(server: RunningServer) -> None:
    assert series(server)["window"] == 900


def test_only_the_series_asked_for_are_told(server: RunningServer) -> None:
    found = series(server, "names=cpu,latency,cpu")
    assert [s["name"] for s in found["series"]] == ["cpu", "latency"]


def test_requests_and_tokens_are_drawn_as_rates(server: RunningServer) -> None:
    def seen(name: str, part: str) -> bool:
        return any(line(series(server, f"window=300&names={name}"), part))

    eventually(lambda: seen("requests", "answered"))
    assert seen("requests", "refused")
    assert not seen("requests", "failed")
    assert seen("tokens", "tokens")
    latency = series(server, "window=300&names=latency")
    (median,) = [value for value in line(latency, "p50") if value is not None]
    (p99,) = [value for value in line(latency, "p99") if value is not None]
    assert 0 < median <= p99
    memory = [v for v in line(series(server, "names=memory"), "process") if v is not None]
    assert memory[-1] == pytest.approx(psutil.Process().memory_info().rss, rel=0.5)


def test_without_a_gpu_that_is_said(server: RunningServer) -> None:
    found = series(server, "names=gpu-memory")["series"][0]
    if found["available"]:
        pytest.skip("there is a GPU")
    assert found["note"] == "There is no GPU on this machine."


@pytest.mark.parametrize(
    ("query", "param", "message"),
    [
        ("window=59", "window", ">= 60"),
        ("window=86401", "window", "<= 86400"),
        ("window=x", "window", "Expected `int`"),
        ("window=60&window=70", "window", "is there twice"),
        ("names=cpu,ram", "names", "no series 'ram'. Known are requests, tokens"),
        ("names=", "names", "no series ''"),
        ("since=5", "since", "Known are window, names"),
    ],
)
def test_a_bad_parameter_is_named(
    server: RunningServer, query: str, param: str, message: str
) -> None:
    assert_error(api(server, "GET", f"series?{query}"), 400, message, param)


def test_the_scope_admin_is_needed(tmp_path: Path) -> None:
    with run_in_thread(guarded(tmp_path)) as server:
        for path in ("/api/series", "/api/logs", "/api/config", "/api/config/schema"):
            assert ask(server, None, "GET", path).status_code == 401
            assert ask(server, secret(server), "GET", path).status_code == 403
            assert ask(server, KEY, "GET", path).status_code == 200
        assert ask(server, secret(server), "PUT", "/api/config", json={}).status_code == 403
        assert embed(server, KEY).status_code == 200


def test_what_was_recorded_outlives_a_restart(tmp_path: Path) -> None:
    settings = guarded(tmp_path)

    def answered() -> list[float | None]:
        answer = ask(server, KEY, "GET", "/api/series?window=300&names=requests")
        return line(answer.json(), "answered")

    with run_in_thread(settings) as server:
        assert embed(server, KEY).status_code == 200
        eventually(lambda: any(answered()))
    with run_in_thread(settings) as server:
        eventually(lambda: any(answered()))
