# SPDX-License-Identifier: Apache-2.0
"""The front: takes requests, asks a replica that holds the model, and another if that one dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from litestar import Request
from litestar.types import Receive, Scope, Send
from ray.exceptions import ObjectLostError, RayActorError, RayError
from ray.serve import metrics
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
)
from ray.serve.handle import DeploymentHandle
from starlette.requests import ClientDisconnect
from starlette.requests import Request as ServeRequest
from starlette.responses import Response as ServeResponse

from appliance.bodies import read_body
from appliance.context import RequestContext
from appliance.errors import (
    ApplianceError,
    ClientLeft,
    InternalError,
    ModelUnavailable,
    Overloaded,
)
from embeddings_serve.arguments import Arguments, read_settings
from embeddings_serve.calls import Answer, Call, collect
from embeddings_serve.routing import Route, Routing

__all__ = ["Front"]

logger = logging.getLogger(__name__)

REQUEST_ID = b"x-request-id"
LONG_BODY = 1 << 18
"""Bytes of a body from which on it is not looked at on the event loop."""

_GONE = (RayActorError, ObjectLostError)
"""What became of a replica, or of its answer, that has died."""


class Front:
    """Takes requests for all replicas.

    Args:
        replicas: The deployment that answers them.
        arguments: The deployment's.

    Raises:
        SettingsFault: The settings are bad.
    """

    def __init__(self, replicas: DeploymentHandle[Any], arguments: Arguments) -> None:
        settings = read_settings(arguments.config)
        self._replicas = replicas.options(method_name="answer")
        self._tries = arguments.tries
        self._wait_seconds = arguments.wait_seconds
        self._body_seconds = settings.request_timeout_seconds
        self._routing = Routing(settings)
        self._app = RequestContext(self._pass_on)
        self._retries = metrics.Counter(
            "appliance_front_retries", "Requests sent once more, as a replica died over them."
        )

    async def __call__(self, request: ServeRequest) -> ServeResponse:
        """Answer a request of Ray's proxy."""
        receive: Any = request.receive
        answer = await collect(self._app, _without_prefix(request.scope), receive)
        response = ServeResponse(answer.body, answer.status)
        # The proxy adds the id, which it gives to requests that have none.
        response.raw_headers = [each for each in answer.headers if each[0] != REQUEST_ID]
        return response

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        request: Request[Any, Any, Any] = Request(scope, receive)
        route = self._routing.find(scope)
        try:
            if route.refusal is not None:
                raise route.refusal
            chunks, announced = _body_of(scope, receive)
            body = await read_body(chunks, announced, self._body_seconds, route.most_bytes)
            answer = await self._answered(await self._call(request, route, body), route)
        except ApplianceError as error:
            answer = _told(route, request, error)
        except ClientDisconnect:  # in the middle of its body
            answer = _told(route, request, ClientLeft("The client closed the connection."))
        headers = answer.headers
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": False})

    async def _call(self, request: Request[Any, Any, Any], route: Route, body: bytes) -> Call:
        if len(body) < LONG_BODY:
            model = self._routing.model(route, body)
        else:
            model = await asyncio.to_thread(self._routing.model, route, body)
        scope: Any = request.scope
        return Call(
            scope["method"],
            scope["scheme"],
            scope["path"],
            scope["raw_path"],
            scope["query_string"],
            [(bytes(name), bytes(value)) for name, value in scope["headers"]],
            scope["client"] and tuple(scope["client"]),
            body,
            model,
        )

    async def _answered(self, call: Call, route: Route) -> Answer:
        """Have a replica answer, within the time that there is for it."""
        try:
            async with asyncio.timeout(self._wait_seconds):
                return await self._try(call, self._tries if route.is_repeatable else 1)
        except TimeoutError:
            raise ModelUnavailable(
                f"No replica has answered within {self._wait_seconds:g} s.", retry_after=5
            ) from None
        except BackPressureError as error:
            told = "All replicas are busy, and as many requests wait as may."
            raise Overloaded(told, bound="queue_full", retry_after=1) from error
        except DeploymentUnavailableError as error:
            raise ModelUnavailable("No replica can be started.", retry_after=30) from error
        except (RayError, RayServeException) as error:
            logger.exception("a replica could not be asked")
            raise InternalError("The server had an error over your request.") from error

    async def _try(self, call: Call, tries: int) -> Answer:
        replicas = self._replicas.options(multiplexed_model_id=call.model)
        for attempt in range(1, tries + 1):
            response = replicas.remote(call)
            try:
                answer: Answer = await response
            except asyncio.CancelledError:  # the client has left, or waits no longer
                response.cancel()  # type: ignore[no-untyped-call]
                raise
            except _GONE as error:
                logger.warning("a replica died over a request: %s", error)
                if attempt < tries:
                    self._retries.inc()
            else:
                return answer
        times = "once" if tries == 1 else f"{tries} times"
        raise ModelUnavailable(
            f"The replica that worked on the request died. It was sent {times}; whether it was"
            " carried out is not known.",
            retry_after=1,
        )


def _without_prefix(scope: Any) -> Any:
    """What is asked for below the path, ``route_prefix``, that Ray publishes the application at."""
    prefix: str = scope.get("root_path", "")
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return {
        **scope,
        "root_path": "",
        "path": scope["path"].removeprefix(prefix) or "/",
        "raw_path": raw.removeprefix(prefix.encode()) or b"/",
    }


def _body_of(scope: Any, receive: Any) -> tuple[AsyncIterator[bytes], int | None]:
    """The pieces of a body, and the bytes that it is said to have."""
    request = ServeRequest(scope, receive)
    announced = request.headers.get("content-length", "")
    return request.stream(), int(announced) if announced.isdigit() else None


def _told(route: Route, request: Request[Any, Any, Any], error: ApplianceError) -> Answer:
    """Tell of an error as the dialect does that the request speaks."""
    response = route.render(request, error)
    content = response.content
    body = content if isinstance(content, bytes) else msgspec.json.encode(content)
    headers = {
        "content-type": "application/json",
        **response.headers,
        "content-length": str(len(body)),
    }
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return Answer(response.status_code or error.status, raw, body)
