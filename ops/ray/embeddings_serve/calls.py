# SPDX-License-Identifier: Apache-2.0
"""Requests and answers as they travel between processes, and an application asked in its own."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from litestar.types import ASGIApp, Message, Receive, Scope

__all__ = ["Answer", "Call", "Headers", "ask", "collect"]

Headers = list[tuple[bytes, bytes]]


class Call(NamedTuple):
    """A request, its body read.

    Attributes:
        method: Of HTTP.
        scheme: Of its URL.
        path: Of its URL, decoded.
        raw_path: The same, as it came.
        query: Of its URL, as it came.
        headers: Names in lower case.
        client: Address and port that it came from, if they are known.
        body: As it came.
        model: Name of the model that it is for, as that is served; empty if it is for none.
    """

    method: str
    scheme: str
    path: str
    raw_path: bytes
    query: bytes
    headers: Headers
    client: tuple[str, int] | None
    body: bytes
    model: str


class Answer(NamedTuple):
    """What a request is answered with.

    Attributes:
        status: Of HTTP.
        headers: Names in lower case.
        body: All of it.
    """

    status: int
    headers: Headers
    body: bytes


async def collect(app: ASGIApp, scope: Scope, receive: Receive) -> Answer:
    """Have an application answer, and gather the answer."""
    status = 500
    headers: Headers = []
    body = bytearray()

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], list(message["headers"])
        elif message["type"] == "http.response.body":
            body.extend(message["body"])

    await app(scope, receive, send)
    return Answer(status, headers, bytes(body))


async def ask(app: ASGIApp, call: Call) -> Answer:
    """Have an application answer a call. To cancel it is to leave, as a client does."""
    left = asyncio.Event()
    parts: list[Any] = [{"type": "http.request", "body": call.body, "more_body": False}]
    scope: Any = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": call.method,
        "scheme": call.scheme,
        "path": call.path,
        "raw_path": call.raw_path,
        "query_string": call.query,
        "root_path": "",
        "headers": call.headers,
        "client": call.client,
        "server": None,
        "state": {},
    }

    async def receive() -> Any:
        if parts:
            return parts.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    try:
        return await collect(app, scope, receive)
    finally:
        left.set()
