# SPDX-License-Identifier: Apache-2.0
"""What surrounds every request: its id, the moment it came in, and whether its client stays."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Iterable
from http import HTTPStatus
from typing import TypeVar

from litestar.enums import ScopeType
from litestar.routes import BaseRoute, HTTPRoute
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from appliance.errors import ClientLeft
from appliance.logs import current_request_id

__all__ = ["RequestContext", "UnderRoute", "elapsed_milliseconds", "while_connected"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_HEADER = b"x-request-id"
_WATCHING = ("/api/", "/dashboard", "/health", "/metrics", "/ping", "/ready")
"""Paths that are asked for again and again by those who watch; the log would be full of it."""

MOST_PATH_CHARACTERS = 200
_ACCEPTABLE = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")


class RequestContext:
    """ASGI middleware that stands outside the framework, so that no answer escapes it.

    Each answer carries ``x-request-id``: the client's own if it sent one that is fit to be
    logged, else a new one.

    Args:
        app: The application within.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one connection on."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        request_id = next((value for name, value in scope["headers"] if name == _HEADER), b"")
        if not _ACCEPTABLE.fullmatch(request_id):
            # No secret, and to ask the system for one would let go of the interpreter.
            request_id = b"req_%032x" % random.getrandbits(128)
        current_request_id.set(request_id.decode("ascii"))
        scope.setdefault("state", {})["started"] = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (_HEADER, request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            _log(scope, status)


class UnderRoute:
    """ASGI middleware for gateways that pass on the path that they publish the server under.

    What is asked for below that path is taken as if the gateway had cut it off; those that do cut
    it off need nothing. An answer that leads elsewhere leads there under the path.

    Args:
        app: The application within.
        path: Where the server is published, such as ``/embeddings``.
        routes: The server's own, one of which may be at just this path.
    """

    def __init__(self, app: ASGIApp, path: str, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._path = path
        self._below = f"{path}/"
        self._raw = path.encode()
        self._methods = {
            method
            for route in routes
            if isinstance(route, HTTPRoute) and route.path == path
            for method in route.methods
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one connection on."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        is_itself = path == self._path and scope["method"] not in self._methods
        if is_itself or path.startswith(self._below):
            # No root_path: the framework would cut its words off wherever in a path they are.
            raw: bytes = scope["raw_path"]
            scope = {**scope}
            scope["path"] = path[len(self._path) :] or "/"
            scope["raw_path"] = raw.removeprefix(self._raw)

        async def send_with_path(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] != HTTPStatus.OK:
                message["headers"] = [self._under(*header) for header in message["headers"]]
            await send(message)

        await self._app(scope, receive, send_with_path)

    def _under(self, name: bytes, value: bytes) -> tuple[bytes, bytes]:
        return name, self._raw + value if name == b"location" and value[:1] == b"/" else value


def _log(scope: Scope, status: int) -> None:
    """A line for a request, without its query. Status 0: there was no answer."""
    method, path = str(scope.get("method")), scope["path"]
    if logger.isEnabledFor(logging.DEBUG) and not (method == "GET" and path.startswith(_WATCHING)):
        raw: bytes = scope.get("raw_path") or path.encode()
        shown = raw.decode("latin-1")[:MOST_PATH_CHARACTERS]
        logger.debug(
            "%s %s %d, %.1f ms, %s",
            method,
            shown,
            status,
            elapsed_milliseconds(scope),
            current_request_id.get(),
        )


def elapsed_milliseconds(scope: Scope) -> float:
    """Time since a request came in."""
    started: float = scope["state"]["started"]
    return (time.perf_counter() - started) * 1000


async def while_connected(receive: Receive, work: Awaitable[Result]) -> Result:
    """Wait for an answer for as long as there is somebody to read it.

    Args:
        receive: The request's own, once its body has been read.
        work: Makes the answer; cancelled if the client leaves.

    Raises:
        ClientLeft: The connection was closed first.
    """
    task = asyncio.current_task()
    assert task is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass  # a server may tell once more that the body has ended
        left = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if left and not task.uncancel():  # else it is others who have the work cancelled
            raise ClientLeft("The client closed the connection.") from None
        raise
    finally:
        watcher.cancel()
