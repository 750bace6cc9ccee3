# SPDX-License-Identifier: Apache-2.0
"""The settings ``queue`` and ``route``: what they may be, and beside which models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar
from pydantic import ValidationError

from appliance.app import create_app
from appliance.cli import main
from appliance.persistence import KeptModels
from appliance.published import published, route_path
from appliance.settings import ModelSettings, Settings


@pytest.mark.parametrize(
    ("given", "kept", "path", "shown"),
    [
        (
            "https://ai.example.com/embeddings",
            "https://ai.example.com/embeddings",
            "/embeddings",
            "https://ai.example.com/embeddings/v1",
        ),
        ("https://ai.example.com", "https://ai.example.com", "", "https://ai.example.com/v1"),
        ("HTTP://[::1]:8443/", "HTTP://[::1]:8443", "", "HTTP://[::1]:8443/v1"),
        ("/team/a-b_c.d~e/", "/team/a-b_c.d~e", "/team/a-b_c.d~e", "/team/a-b_c.d~e/v1"),
        ("/api/embeddings", "/api/embeddings", "/api/embeddings", "/api/embeddings/v1"),
        ("/", "/", "", "/v1"),
        (None, None, "", "/v1"),
    ],
)
def test_a_route_says_where_paths_are_found(
    given: str | None, kept: str | None, path: str, shown: str
) -> None:
    settings = Settings(route=given)
    assert settings.route == kept
    assert route_path(settings.route) == path
    assert published(settings.route, "/v1") == shown


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("route", "", "it must be a URL"),
        ("route", "ai.example.com/embeddings", "it must be a URL"),
        ("route", "ftp://ai.example.com", "it must be a URL"),
        ("route", "https:///embeddings", "it must be a URL"),
        ("route", "https://ai.example.com:http", "it must be a URL"),
        ("route", "https://ai.example.com:99999", "Port out of range"),
        ("route", "https://ai.example.com/e?x=1", "it must be a URL"),
        ("route", "/e#x", "it must be a URL"),
        ("route", "/e%20f", "letters, digits"),
        ("route", "//ai.example.com", "may be empty"),
        ("route", "/a//b", "may be empty"),
        ("route", "/a/../b", "'.' or '..'"),
        ("route", "https://ai.example.com/v1", "put /v1 behind"),
        ("queue", "", "63 letters"),
        ("queue", "gpu/small", "63 letters"),
        ("queue", "-gpu", "63 letters"),
        ("queue", "q" * 64, "63 letters"),
        ("queue", "grün", "63 letters"),
    ],
)
def test_what_is_neither_is_told(name: str, value: str, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Settings(**{name: value})


def test_a_password_in_a_url_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--route",
        "https://u:hush@ai.example.com",
        "--otlp-endpoint",
        "http://u:hush@collector",
    ]
    assert main(["config", "validate", *flags]) == 2
    told = capsys.readouterr().err
    assert "route: it must be a URL such as https://ai.example.com/embeddings" in told
    assert "hush" not in told


def test_no_route_begins_as_the_servers_own_paths_do() -> None:
    app: Any = create_app(Settings())
    while not isinstance(app, Litestar):
        app = app._app
    found = set()
    for route in app.routes:
        parts = ["x" if part.startswith("{") else part for part in route.path[1:].split("/")]
        if not route.path.startswith("/{"):
            found |= {"/" + "/".join(parts[:n]) for n in range(1, len(parts))}
    assert {"/v1", "/api/models/x", "/docs"} <= found
    for path in found:
        with pytest.raises(ValidationError, match="paths of its own"):
            Settings(route=path)


@pytest.mark.parametrize(
    ("route", "model"),
    [
        ("/embeddings", {"model": "m", "name": "embeddings"}),
        ("https://ai.example.com/embeddings", {"model": "m", "aliases": ("embeddings",)}),
        ("/team", {"model": "team/model"}),
        ("/team/model/more", {"model": "team/model"}),
    ],
)
def test_no_models_path_is_the_routes(route: str, model: dict[str, Any]) -> None:
    models = (ModelSettings(model="other/embeddings"), ModelSettings(**model))
    assert Settings(models=models).route is None
    with pytest.raises(ValidationError, match="publish the server elsewhere"):
        Settings(models=models, route=route)


def test_a_model_that_was_added_before_the_route_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = KeptModels(tmp_path)
    kept.add(ModelSettings(model="team/model"))
    kept.add(ModelSettings(model="b"))
    settings = Settings(models=(ModelSettings(model="a"),), route="/team")
    assert [model.name for model in kept.served(settings)] == ["a", "b"]
    assert "team/model: not served, though it was added" in caplog.text
