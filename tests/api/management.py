# SPDX-License-Identifier: Apache-2.0
"""What the tests of the management routes share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx

from appliance.settings import ModelSettings
from tests.conftest import RunningServer
from tests.fakes import FakeBackend
from tests.unit.tickets import PATIENCE


class Fakes:
    """Makes backends and remembers them.

    Args:
        before: Called before each is made, with the model's settings; may block or raise.
        arguments: For each backend.
    """

    def __init__(
        self, before: Callable[[ModelSettings], object] = lambda _: None, **arguments: Any
    ) -> None:
        self.made: dict[str, list[FakeBackend]] = {}
        self._before = before
        self._arguments = arguments

    def __call__(self, model: ModelSettings) -> FakeBackend:
        self._before(model)
        backend = FakeBackend(**self._arguments)
        self.made.setdefault(model.name, []).append(backend)
        return backend


class Asked:
    """A request that is made on a thread of its own."""

    def __init__(self, request: Callable[[], httpx.Response]) -> None:
        self._answers: list[httpx.Response] = []
        self._thread = threading.Thread(target=lambda: self._answers.append(request()))
        self._thread.start()

    @property
    def is_open(self) -> bool:
        return self._thread.is_alive()

    def answer(self) -> httpx.Response:
        self._thread.join(PATIENCE)
        assert self._answers, "never answered"
        return self._answers[0]


def api(server: RunningServer, method: str, path: str, **options: Any) -> httpx.Response:
    """Ask a management route."""
    return httpx.request(method, f"{server.url}/api/{path}", timeout=60, **options)


def add(server: RunningServer, model: str, **fields: Any) -> httpx.Response:
    return api(server, "POST", "models", json={"model": model, **fields})


def act(server: RunningServer, name: str, action: str) -> httpx.Response:
    return api(server, "POST", f"models/{name}/{action}")


def described(server: RunningServer, name: str) -> dict[str, Any]:
    answer = api(server, "GET", f"models/{name}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def state_of(server: RunningServer, name: str) -> str:
    return str(described(server, name)["state"])


def names_of(server: RunningServer) -> list[str]:
    return [model["name"] for model in api(server, "GET", "models").json()["models"]]


def eventually(holds: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.01)


def assert_error(
    answer: httpx.Response, status: int, message: str, param: str | None = None
) -> None:
    """An error in OpenAI's shape, as on every other route."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert message in error["message"]
    assert error["param"] == param
    assert answer.headers["x-request-id"]
