# SPDX-License-Identifier: Apache-2.0
"""HTTP as uvicorn speaks it, with bounds on all that comes before and between bodies.

The parser has none: it would gather a header without an end until the memory is gone, and a
connection on which nothing is ever asked would stay open for ever. Bodies have bounds of their own,
see :mod:`appliance.bodies`.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import resource
import struct
import termios
from contextlib import suppress
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

__all__ = ["BoundedHttp", "allow_many_connections"]

logger = logging.getLogger(__name__)

MOST_HEADERS = 100
MOST_HEADER_BYTES = 65_536
"""Of all headers together, and of anything else that is not a body."""
MOST_TARGET_BYTES = 8_192
"""Of a path with its query."""


class _Refused(Exception):
    """Stops the parser."""


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    _unread = 0
    """Bytes since the last sign of progress: a whole head, a piece of a body, the next request."""
    _refusal: HTTPStatus | None = None
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come, unless it is too much of what is no body."""
        if self.transport.is_closing():
            return  # what a client still sends after it was refused
        self._unread += len(data)
        super().data_received(data)
        if self._unread > MOST_HEADER_BYTES and not self.transport.is_closing():
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """A request's first byte has come."""
        super().on_message_begin()
        self._unread = 0
        if self._head_timer is None:
            self._expect_head()

    def on_url(self, url: bytes) -> None:
        """A piece of the path has come."""
        super().on_url(url)
        if len(self.url) > MOST_TARGET_BYTES:
            self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has come, or what looks like one after a body in chunks."""
        super().on_header(name, value)
        if len(self.headers) > MOST_HEADERS:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """All of a request but its body has come."""
        self._unread = 0
        self._stop_timer()
        if sum(len(name) + len(value) for name, value in self.headers) > MOST_HEADER_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body has come."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of a request has come."""
        self._unread = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read, in the words of HTTP, and close.

        Where an answer is under way, another would be taken for a part of it.
        """
        if self._is_answering:
            self.transport.close()
        elif self._refusal is None:
            super().send_400_response(msg)
        else:
            text = f"{self._refusal.phrase}."
            self.transport.write(
                f"HTTP/1.1 {self._refusal.value} {self._refusal.phrase}\r\n"
                "content-type: text/plain; charset=utf-8\r\n"
                f"content-length: {len(text)}\r\n"
                f"connection: close\r\n\r\n{text}".encode("ascii")
            )
            self.transport.close()

    def abandon(self) -> None:
        """Close at once what is being closed, if the client has all that was sent to it.

        TLS ends by a message from either side, and asyncio waits half a minute for that of a client
        which does not look at its idle connection.
        """
        if self.transport.is_closing() and not _unsent_bytes(self.transport):
            self.transport.abort()

    @property
    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _refuse(self, status: HTTPStatus) -> None:
        self._refusal = status
        raise _Refused  # the parser stops, and has the request answered as one it cannot read

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.timeout_keep_alive, self._head_is_late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._is_answering:
            self._expect_head()  # the request before it is being answered; no more is read now
        else:
            self.timeout_keep_alive_handler()


def _unsent_bytes(transport: asyncio.Transport) -> int:
    """Bytes that have not arrived yet. Where a socket has none, nothing waits to be given to it."""
    unsent = bytes(4)
    with suppress(OSError):  # the socket is closed
        descriptor = transport.get_extra_info("socket").fileno()
        unsent = fcntl.ioctl(descriptor, termios.TIOCOUTQ, unsent)
    (count,) = struct.unpack("i", unsent)
    return int(count)


def allow_many_connections() -> None:
    """Raise the number of files that the process may have open to what it is allowed to."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
