# SPDX-License-Identifier: Apache-2.0
"""What the tests of keys share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from appliance.settings import ModelSettings, Settings
from tests.conftest import RunningServer

KEY = "planted-static-key"
MODELS = (ModelSettings(model="fake/model", aliases=("small",)), ModelSettings(model="other"))


def guarded(folder: Path | None = None, **more: Any) -> Settings:
    """Settings under which keys are asked for."""
    return Settings(**{"models": MODELS, "data_dir": folder, "api_keys": (KEY,), **more})


def ask(
    server: RunningServer, key: str | None, method: str, path: str, **options: Any
) -> httpx.Response:
    """Ask with a key."""
    headers = {**options.pop("headers", {})}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    return httpx.request(method, server.url + path, headers=headers, timeout=60, **options)


def embed(
    server: RunningServer, key: str | None, text: str = "a", model: str = "fake/model"
) -> httpx.Response:
    body = {"model": model, "input": text}
    return ask(server, key, "POST", "/v1/embeddings", json=body)


def create(server: RunningServer, **fields: Any) -> dict[str, Any]:
    """Make a token; the answer, and its secret under ``secret``."""
    answer = ask(server, KEY, "POST", "/api/tokens", json={"name": "t", **fields})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def secret(server: RunningServer, **fields: Any) -> str:
    """Make a token and give its secret."""
    return str(create(server, **fields)["secret"])
