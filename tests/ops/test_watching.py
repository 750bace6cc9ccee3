# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus reads a real server with these files, and finds what they ask for."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from appliance.settings import ModelSettings
from tests.api.access import KEY, ask, embed, guarded, secret
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import load_fake
from tests.ops.files import (
    chosen,
    dashboard,
    expressions,
    matchers,
    metric_names,
    panel_expressions,
    rules,
)
from tests.ops.prometheus import Prometheus, prometheus
from tests.telemetry.test_gpus import FakeNvml, use

MODEL = "fake/model"

NOT_THE_SERVERS = {"up", "ALERTS"}
"""Series that Prometheus makes."""

MAY_BE_EMPTY = {"Network"}
"""Panels of things that a machine may not have: here a network beside the loopback device."""

ENUMERATED = ("reason", "state", "tier")
"""Labels of which every value is always there, so that a wrong one shows."""


@dataclass(frozen=True)
class Served:
    """A server, the token that Prometheus reads it with, and one that may do little."""

    server: RunningServer
    scraping_token: str
    small_token: str

    def work(self) -> None:
        """Something of all that happens to a server."""
        for text in ("a", "b c", "d " * 20):
            assert embed(self.server, KEY, text, MODEL).status_code == 200
        assert embed(self.server, KEY, "far too long " * 40, MODEL).status_code == 400
        embed(self.server, self.small_token)  # refused from the second on
        for action in ("unload", "load"):
            ask(self.server, KEY, "POST", f"/api/models/{MODEL}/{action}")
        assert ask(self.server, None, "GET", "/health").status_code in (200, 503)


@dataclass(frozen=True)
class Watched:
    """A server, and the Prometheus that reads it."""

    served: Served
    prometheus: Prometheus


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = guarded(
        tmp_path_factory.mktemp("server"),
        models=(ModelSettings(model=MODEL), ModelSettings(model="other")),
    )
    with pytest.MonkeyPatch.context() as patch:
        use(patch, FakeNvml())
        with run_in_thread(settings, load_fake) as server:
            token = secret(server, scopes=["admin"])
            yield Served(server, token, secret(server, requests_per_minute=1))


@pytest.fixture(scope="module")
def watched(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("prometheus")
    with prometheus(folder, served.server.url, served.scraping_token) as started:
        yield Watched(served, started)


@pytest.fixture(scope="module")
def metrics(served: Served) -> dict[str, Metric]:
    """What the server has to tell, by the name that Prometheus keeps it under."""
    served.work()
    answer = ask(served.server, served.scraping_token, "GET", "/metrics")
    found: dict[str, Metric] = {}
    for family in text_string_to_metric_families(answer.text):
        found |= {sample.name: family for sample in family.samples}
    return found


def wait_for_data(watched: Watched, wanted: dict[str, str]) -> dict[str, str]:
    """Work until every question has an answer; those that have none after long."""
    for _ in range(90):
        watched.served.work()
        wanted = {name: each for name, each in wanted.items() if not watched.prometheus.query(each)}
        if not wanted:
            break
        time.sleep(0.5)
    return wanted


def test_the_server_is_read_with_the_token(watched: Watched) -> None:
    assert httpx.get(f"{watched.served.server.url}/metrics").status_code == 401
    assert wait_for_data(watched, {"up": 'up{job="embeddings"} == 1'}) == {}
    [target] = watched.prometheus.get("targets")["activeTargets"]
    assert target["lastError"] == ""


def test_every_panel_has_data(watched: Watched) -> None:
    wanted = {
        f"{title}: {expression}": expression
        for title, expression in panel_expressions()
        if title not in MAY_BE_EMPTY
    }
    assert wait_for_data(watched, wanted) == {}
    for _, expression in panel_expressions():
        watched.prometheus.query(expression)  # which fails where it cannot be evaluated


def test_every_recorded_series_is_there(watched: Watched) -> None:
    wanted = {rule["record"]: rule["record"] for rule in rules("recording.yaml")}
    assert wait_for_data(watched, wanted) == {}


def test_every_rule_evaluates(watched: Watched) -> None:
    for _ in range(100):
        groups = watched.prometheus.get("rules")["groups"]
        health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
        if "unknown" not in health.values():
            break
        time.sleep(0.2)
    assert set(health.values()) == {"ok"}, health
    names = {rule.get("alert") or rule["record"] for rule in rules("recording.yaml", "alerts.yaml")}
    assert health.keys() == names


def test_every_menu_has_entries(watched: Watched) -> None:
    menus = [each["query"] for each in dashboard()["templating"]["list"] if each["type"] == "query"]
    assert len(menus) == 3
    for menu in menus:
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", chosen(menu))
        assert found is not None
        series = watched.prometheus.get("series", **{"match[]": found[1]})
        assert all(each[found[2]] for each in series)
        assert series, menu


def test_every_metric_that_is_asked_for_is_the_servers(metrics: dict[str, Metric]) -> None:
    asked = {name for each in expressions() for name in metric_names(each) if ":" not in name}
    assert len(asked) > 30
    assert asked - NOT_THE_SERVERS - metrics.keys() == set()


def test_every_label_that_is_asked_for_is_the_servers(metrics: dict[str, Metric]) -> None:
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name, family in metrics.items():
        for sample in family.samples:
            for label, value in sample.labels.items():
                values[name, label].add(value)
    unknown = set()
    for name, label, value in (found for each in expressions() for found in matchers(each)):
        if label in ("job", "instance") or ":" in name or name in NOT_THE_SERVERS:
            continue
        known = values.get((name, label), set())
        named = set(value.split("|")) if label in ENUMERATED else set()
        if not known or (name.startswith("appliance_") and named - known):
            unknown.add((name, label, value))
    assert unknown == set()


def test_routes_that_are_asked_for_are_the_servers(metrics: dict[str, Metric]) -> None:
    routes = {
        sample.labels["http_route"]
        for sample in metrics["http_server_request_duration_seconds_count"].samples
    }
    asked = {
        value
        for each in expressions()
        for _, label, value in matchers(each)
        if label == "http_route"
    }
    assert asked == {".*/v1/embeddings", "/health"}
    assert all(any(re.fullmatch(each, route) for route in routes) for each in asked)
