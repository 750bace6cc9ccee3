# SPDX-License-Identifier: Apache-2.0
"""The front by itself: the model that a request is for, and what is told if no replica answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import httpx
import pytest

pytest.importorskip("ray.serve", reason="Ray is not installed (the extra `ray`)")

from embeddings_serve.arguments import Arguments
from embeddings_serve.calls import Answer, Call
from embeddings_serve.front import LONG_BODY, Front
from ray.exceptions import ActorDiedError, RaySystemError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.requests import Request

HELD = {
    "auth": "none",
    "any_model_name": False,
    "models": [
        {"model": "owner/first", "aliases": ["an-alias"]},
        {"model": "owner/second", "payload_limit": 40_000_000},
    ],
}
FIRST, SECOND = "owner/first", "owner/second"


class Response:
    """What a handle returns, as far as the front asks."""

    def __init__(self, work: Awaitable[Answer]) -> None:
        self.work = asyncio.ensure_future(work)

    def __await__(self) -> Generator[Any, None, Answer]:
        return asyncio.shield(self.work).__await__()

    def cancel(self) -> None:
        self.work.cancel()


class Replicas:
    """A handle that answers as a test has it."""

    def __init__(self, answer: Callable[[Call], Awaitable[Answer]]) -> None:
        self._answer = answer
        self.models: list[str] = []
        self.calls: list[Call] = []
        self.responses: list[Response] = []

    def options(self, *, method_name: str = "", multiplexed_model_id: str | None = None) -> Any:
        if multiplexed_model_id is not None:
            self.models.append(multiplexed_model_id)
        return self

    def remote(self, call: Call) -> Response:
        self.calls.append(call)
        self.responses.append(Response(self._answer(call)))
        return self.responses[-1]


async def fine(call: Call) -> Answer:
    return Answer(200, [(b"content-type", b"application/json")], b"{}")


def failing(error: Exception) -> Callable[[Call], Awaitable[Answer]]:
    async def fail(call: Call) -> Answer:
        raise error

    return fail


def client_of(
    replicas: Replicas, settings: dict[str, Any] = HELD, wait_seconds: float = 60
) -> httpx.AsyncClient:
    """Speaks to a front as Ray's proxy does."""
    handle: Any = replicas
    front = Front(handle, Arguments(config=settings, wait_seconds=wait_seconds))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        response = await front(Request(scope, receive))
        await response(scope, receive, send)

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ray")


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        ("/v1/embeddings", {"model": FIRST}, FIRST),
        ("/v1/embeddings", {"model": "an-alias"}, FIRST),
        ("/api/embed", {"model": f"{SECOND}:latest"}, SECOND),
        ("/v1/embeddings", {"input": "x" * LONG_BODY, "model": SECOND}, SECOND),
        (f"/{SECOND}/v1/embeddings", {}, SECOND),
        (f"/{SECOND}/embed", {"inputs": "x"}, SECOND),
        ("/embed", {"inputs": "x"}, FIRST),
        ("/tokenize", {"inputs": "x"}, FIRST),
        ("/v1/embeddings", {"model": "unknown"}, ""),
        ("/v1/embeddings", {"model": 3}, FIRST),
        ("/nothing", {"model": FIRST}, FIRST),
    ],
)
async def test_ray_is_told_the_model(path: str, body: dict[str, Any], model: str) -> None:
    replicas = Replicas(fine)
    async with client_of(replicas) as client:
        assert (await client.post(path, json=body)).status_code == 200
        assert (await client.get("/v1/models")).status_code == 200
    assert replicas.models == [model, ""]
    assert json.loads(replicas.calls[0].body) == body


async def test_any_name_is_the_default_model_where_that_is_set() -> None:
    replicas = Replicas(fine)
    async with client_of(replicas, {**HELD, "any_model_name": True}) as client:
        await client.post("/v1/embeddings", json={"model": "unknown"})
    assert replicas.models == [FIRST]


async def test_a_path_of_the_route_is_cut_off_to_look_at_it() -> None:
    replicas = Replicas(fine)
    async with client_of(replicas, {**HELD, "route": "/published"}) as client:
        await client.post(f"/published/{SECOND}/embed", json={"inputs": "x"})
        assert (await client.get("/published/metrics")).status_code == 404
    assert replicas.models == [SECOND]
    assert replicas.calls[0].path == f"/published/{SECOND}/embed"


async def test_the_largest_body_is_that_of_the_largest_model() -> None:
    replicas = Replicas(fine)
    async with client_of(replicas) as client:
        assert (await client.post("/embed", content=b" " * 40_000_000)).status_code == 200
        assert (await client.post("/embed", content=b" " * 40_000_001)).status_code == 413
        assert (await client.post("/v1/files", content=b" " * 40_000_001)).status_code == 200
    assert len(replicas.calls) == 2


@pytest.mark.parametrize(
    ("error", "status", "kind", "asked"),
    [
        (BackPressureError(9, 8), 429, "Overloaded", 1),
        (DeploymentUnavailableError(DeploymentID("Embeddings", "app")), 503, "Unhealthy", 1),
        (ActorDiedError(), 503, "Unhealthy", 3),
        (RaySystemError("no room"), 424, "Backend", 1),
    ],
)
async def test_what_went_wrong_is_told_in_the_dialects_shape(
    error: Exception, status: int, kind: str, asked: int
) -> None:
    replicas = Replicas(failing(error))
    async with client_of(replicas) as client:
        answer = await client.post("/embed", json={"inputs": "x"})
    assert (answer.status_code, answer.json()["error_type"]) == (status, kind)
    assert ("retry-after" in answer.headers) == (status != 424)
    assert len(replicas.calls) == asked


@pytest.mark.parametrize(
    ("method", "path", "tries"),
    [
        ("GET", "/api/tokens", 3),
        ("GET", "/v1/files", 3),
        ("POST", "/tokenize", 3),
        ("POST", "/v1/rerank", 3),
        ("POST", "/api/tokens", 1),
        ("POST", "/v1/files", 1),
        ("POST", "/v1/batches", 1),
        ("DELETE", "/v1/files/file-1", 1),
        ("POST", "/nothing", 1),
    ],
)
async def test_only_what_changes_nothing_is_sent_again(method: str, path: str, tries: int) -> None:
    replicas = Replicas(failing(ActorDiedError()))
    async with client_of(replicas) as client:
        answer = await client.request(method, path)
    assert answer.status_code == 503
    assert len(replicas.calls) == tries


async def test_half_a_body_is_passed_on_to_nobody() -> None:
    replicas = Replicas(fine)
    handle: Any = replicas
    front = Front(handle, Arguments(config=HELD))
    messages: list[Any] = [
        {"type": "http.disconnect"},
        {"type": "http.request", "body": b"{", "more_body": True},
    ]

    async def receive() -> Any:
        return messages.pop()

    scope = {"type": "http", "method": "POST", "path": "/embed", "headers": []}
    assert (await front(Request(scope, receive))).status_code == 499
    assert replicas.calls == []


async def test_a_request_waits_for_so_long() -> None:
    async def never(call: Call) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    replicas = Replicas(never)
    async with client_of(replicas, wait_seconds=0.05) as client:
        answer = await client.post("/v1/embeddings", json={"model": FIRST})
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "No replica has answered within 0.05 s."
    assert (await asyncio.gather(replicas.responses[0].work, return_exceptions=True)) != [None]
    assert replicas.responses[0].work.cancelled()
