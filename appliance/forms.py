# SPDX-License-Identifier: Apache-2.0
"""Forms with a file in them, which is passed on while it comes in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from litestar import Request
from litestar.exceptions import InternalServerException
from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

from appliance.errors import (
    ClientLeft,
    InvalidRequest,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)

__all__ = ["Form", "read_form"]

MOST_FIELDS = 32
MOST_TEXT_BYTES = 16_384
FORM_BYTES = 1 << 20
"""What a form may have beside its file."""

Write = Callable[[bytes | bytearray], Awaitable[None]]


@dataclass
class Form:
    """A form without its file.

    Attributes:
        texts: Its other fields.
        filename: What the file is called; ``None`` if there was none.
        file_bytes: Its size.
    """

    texts: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    file_bytes: int = 0


async def read_form(
    request: Request[Any, Any, Any], name: str, write: Write, *, most_bytes: int, seconds: float
) -> Form:
    """Read a form with one file.

    Args:
        request: The request.
        name: The field that the file is in.
        write: Takes the file's content, piece by piece.
        most_bytes: Largest file.
        seconds: Longest wait for the next piece of the body.

    Raises:
        UnsupportedMediaType: It is no form of this kind.
        PayloadTooLarge: The file has more bytes, or the body says so.
        RequestTimeout: The client has stopped sending.
        ClientLeft: The connection was closed in the middle.
        InvalidRequest: It cannot be read, or has the file twice.
    """
    boundary = _boundary(request.headers.get("content-type", ""))
    announced = request.content_length
    if announced is not None and announced > most_bytes + FORM_BYTES:
        raise _too_large(most_bytes)
    reader = _Reader(name, write, most_bytes)
    try:
        with PushMultipartParser(
            boundary, max_segment_count=MOST_FIELDS, content_length=most_bytes + FORM_BYTES
        ) as parser:
            async for chunk in _chunks(request, seconds):
                for event in parser.parse(chunk):
                    await reader.take(event)
    except (MultipartError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"We could not parse the form in your request ({error}).") from None
    return reader.form


class _Reader:
    """Sorts what a parser finds.

    Args:
        name: The field that the file is in.
        write: Takes its content.
        most_bytes: The most of it.
    """

    def __init__(self, name: str, write: Write, most_bytes: int) -> None:
        self.form = Form()
        self._name = name
        self._write = write
        self._most_bytes = most_bytes
        self._field = ""
        self._text = bytearray()

    async def take(self, event: MultipartSegment | bytearray | None) -> None:
        """Take the start of a field, a piece of it, or its end."""
        if event is None:
            if self._field != self._name:
                self.form.texts[self._field] = self._text.decode()
        elif isinstance(event, MultipartSegment):
            self._begin(event)
        elif self._field == self._name:
            self.form.file_bytes += len(event)
            if self.form.file_bytes > self._most_bytes:
                raise _too_large(self._most_bytes)
            await self._write(event)
        else:
            self._text += event
            if len(self._text) > MOST_TEXT_BYTES:
                raise InvalidRequest(
                    f"'{self._field}' has more than {MOST_TEXT_BYTES} bytes.", param=self._field
                )

    def _begin(self, segment: MultipartSegment) -> None:
        self._field = segment.name
        self._text = bytearray()
        is_there = segment.name in self.form.texts
        if segment.name == self._name:
            is_there = self.form.filename is not None
            self.form.filename = segment.filename or self._name
        if is_there:
            raise InvalidRequest(f"'{segment.name}' is there twice.", param=segment.name)


async def _chunks(request: Request[Any, Any, Any], seconds: float) -> AsyncIterator[bytes]:
    chunks = request.stream()
    while True:
        try:
            async with asyncio.timeout(seconds):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise RequestTimeout("The request's body did not arrive in time.") from None
        except InternalServerException:  # what the framework makes of a closed connection
            raise ClientLeft("The client closed the connection.") from None
        if chunk is None:
            return
        if chunk:
            yield chunk


def _boundary(content_type: str) -> str:
    kind, options = parse_options_header(content_type)
    if kind != "multipart/form-data" or not options.get("boundary"):
        raise UnsupportedMediaType(
            f"Content-Type is {content_type!r}, but must be 'multipart/form-data' with a boundary."
        )
    return str(options["boundary"])


def _too_large(most: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The file has more than {most} bytes, the most that is taken.")
