# SPDX-License-Identifier: Apache-2.0
"""A server that a gateway publishes under a path, which it cuts off or passes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from tests.api.access import KEY, ask, guarded
from tests.api.management import assert_error
from tests.conftest import RunningServer, run_in_thread

ROUTE = "https://ai.example.com/embeddings"
CUT_OFF, PASSED_ON = "", "/embeddings"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("data")
    with run_in_thread(guarded(folder, route=ROUTE, queue="gpu-small")) as running:
        yield running


def get(server: RunningServer, path: str) -> httpx.Response:
    return ask(server, KEY, "GET", path)


def answered(server: RunningServer, path: str, **body: Any) -> Any:
    answer = ask(server, KEY, "POST", path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "other", "input": "a b"}),
        ("/fake/model/v1/embeddings", {"model": "fake/model", "input": "a b"}),
        ("/embeddings", {"input": "a b"}),
        ("/embed", {"inputs": "a b"}),
        ("/", {"inputs": "a b"}),
        ("/api/embed", {"model": "other", "input": ["a b"]}),
    ],
)
def test_both_kinds_of_gateway_reach_the_same(
    server: RunningServer, path: str, body: dict[str, Any]
) -> None:
    cut_off, passed_on = (answered(server, at + path, **body) for at in (CUT_OFF, PASSED_ON))
    for varying in ("total_duration", "load_duration"):
        for answer in (cut_off, passed_on):
            if isinstance(answer, dict):
                answer.pop(varying, None)
    assert cut_off == passed_on


def test_keys_and_errors_are_the_same_under_the_path(server: RunningServer) -> None:
    assert ask(server, None, "GET", "/embeddings/api/status").status_code == 401
    assert_error(get(server, "/embeddings/nothing"), 404, "Invalid URL (GET /nothing)")
    assert_error(get(server, "/embeddingsx/v1/models"), 404, "'embeddingsx'", "model")
    assert_error(get(server, "/embeddings/embeddings/v1/models"), 404, "'embeddings'", "model")


@pytest.mark.parametrize("path", ["", "/", "/embeddings", "/embeddings/", "/embeddings/dashboard/"])
def test_pages_are_led_to_under_the_path(server: RunningServer, path: str) -> None:
    answer = get(server, path)
    seen_from_outside = urljoin(server.url + (path or "/"), answer.headers["location"])
    assert seen_from_outside == f"{server.url}/embeddings/dashboard"
    page = get(server, "/embeddings/dashboard")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")


def test_the_document_names_the_place_that_it_came_from(server: RunningServer) -> None:
    [place] = get(server, "/embeddings/openapi.json").json()["servers"]
    assert urljoin(f"{ROUTE}/openapi.json", place["url"]) == f"{ROUTE}/"
    assert get(server, "/embeddings/docs").status_code == 200


def test_endpoints_are_told_as_they_are_reached_from_outside(
    server: RunningServer, tmp_path: Path
) -> None:
    status = get(server, "/api/status").json()
    assert (status["instance"]["route"], status["instance"]["queue"]) == (ROUTE, "gpu-small")
    endpoints = [f"{ROUTE}/fake/model/v1/embeddings", f"{ROUTE}/other/v1/embeddings"]
    assert [model["endpoint"] for model in status["models"]] == endpoints
    models = get(server, "/embeddings/api/models").json()["models"]
    assert [model["endpoint"] for model in models] == endpoints
    with run_in_thread(guarded(route="/embeddings")) as other:
        status = get(other, "/api/status").json()
        assert status["models"][1]["endpoint"] == "/embeddings/other/v1/embeddings"
        endpoint = other.url + status["models"][1]["endpoint"]
        assert answered(other, endpoint.removeprefix(other.url), model="other", input="a")


def test_no_model_takes_the_path(server: RunningServer) -> None:
    def add(**model: Any) -> httpx.Response:
        return ask(server, KEY, "POST", "/embeddings/api/models", json={"model": "m", **model})

    told = "cannot be told from the route's"
    assert_error(add(name="embeddings"), 409, told, "name")
    assert_error(add(aliases=["embeddings"]), 409, told, "aliases")
    wanted = {"models": ["embeddings"]}  # which goes with no route, as from the next start on
    assert_error(ask(server, KEY, "PUT", "/api/config", json=wanted), 409, told, "name")
    both = {"models": ["m", "embeddings"], "route": ROUTE}
    assert_error(ask(server, KEY, "PUT", "/api/config", json=both), 400, told, "settings")
    added = add(name="new")
    assert added.headers["location"] == "/embeddings/api/models/new"
    assert get(server, added.headers["location"]).json()["name"] == "new"
    assert ask(server, KEY, "DELETE", "/api/models/new").status_code == 200
