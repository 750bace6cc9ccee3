# SPDX-License-Identifier: Apache-2.0
"""A client that takes little of the cores which it shares with the server.

It writes each request as one piece of bytes and has httptools parse the answer. Where most requests
are refused, a client such as aiohttp's takes as much of the cores as the refusals themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools

__all__ = ["LeanAnswer", "LeanClient", "lean_client"]


@dataclass
class LeanAnswer:
    """An answer.

    Attributes:
        status: Of HTTP.
        headers: By name, in lower case.
        content: The body.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)


class LeanClient:
    """Posts to one path of one server, over as many connections as are needed at once.

    Args:
        url: Of the server.
        path: To post to.
        headers: To send with each request.
    """

    def __init__(self, url: str, path: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None  # noqa: PT018
        self._place = (parts.hostname, parts.port)
        named = {"host": parts.netloc, **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        self._head = f"POST {path} HTTP/1.1\r\n{lines}content-length: ".encode()
        self._free: list[_Connection] = []

    async def post(self, body: bytes) -> LeanAnswer:
        """Post a body.

        Raises:
            OSError: The connection was refused or lost.
        """
        connection = self._take_free() or await self._connect()
        answer = await connection.ask(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
        self._free.append(connection)
        return answer

    def close(self) -> None:
        """Close the connections that nobody waits on."""
        while self._free:
            self._free.pop().close()

    def _take_free(self) -> _Connection | None:
        while self._free:
            if (connection := self._free.pop()).is_open:
                return connection
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, *self._place)
        return connection


class _Connection(asyncio.Protocol):
    """One connection; its other methods are callbacks of asyncio and of the parser."""

    def __init__(self) -> None:
        self.is_open = True
        self._parser = httptools.HttpResponseParser(self)
        self._answer = LeanAnswer()
        self._waiting: asyncio.Future[LeanAnswer] | None = None

    def ask(self, request: bytes) -> asyncio.Future[LeanAnswer]:
        self._answer = LeanAnswer()
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._waiting

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(exc or ConnectionResetError("closed before the answer"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._answer.content += body

    def on_message_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(self._answer)


@asynccontextmanager
async def lean_client(url: str, path: str, headers: Mapping[str, str]) -> AsyncIterator[LeanClient]:
    """A client whose connections are closed in the end."""
    client = LeanClient(url, path, headers)
    try:
        yield client
    finally:
        client.close()
