# SPDX-License-Identifier: Apache-2.0
"""Request bodies: read within a time and a size, and parsed with faults that name the field."""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import AsyncIterable
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
from litestar import Request
from litestar.exceptions import InternalServerException

from appliance.errors import (
    ClientLeft,
    InvalidRequest,
    MalformedBody,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)
from appliance.settings import ModelSettings

__all__ = ["check_body_size", "parse_body", "read_body", "read_json_body"]

Body = TypeVar("Body")

# What msgspec says, as of 0.22; anything else is passed on in its own words.
_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")
_UNKNOWN = re.compile(r"unknown field `([^`]*)`")

_FIELD = re.compile(rb'[\s,]*("(?:[^"\\]|\\.)*")\s*:\s*')
_AFTER_VALUE = re.compile(rb"\s*[,}]")
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def read_json_body(request: Request[Any, Any, Any], seconds: float, most: int) -> bytes:
    """Read a body that is declared as JSON, or not declared at all.

    The framework's own limit is fixed at the start, but models with larger ones may be added.

    Args:
        request: The request.
        seconds: Longest wait for all of it.
        most: Most bytes.

    Raises:
        UnsupportedMediaType: It is declared as something else, or as compressed.
        ClientLeft: The connection was closed in the middle of it.
        ApplianceError: As of :func:`read_body`.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaType(
            f"Content-Encoding is {encoding!r}, but bodies are read as they are; send it without."
        )
    content_type = request.headers.get("content-type", "application/json")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType(
            f"Content-Type is {content_type!r}, but must be 'application/json'."
        )
    try:
        return await read_body(request.stream(), request.content_length, seconds, most)
    except InternalServerException:  # what the framework makes of a closed connection
        raise ClientLeft("The client closed the connection.") from None


async def read_body(
    chunks: AsyncIterable[bytes], announced: int | None, seconds: float, most: int
) -> bytes:
    """Read a body, whatever it is declared as.

    Args:
        chunks: Its pieces, as they come.
        announced: Bytes that it is said to have.
        seconds: Longest wait for all of it.
        most: Most bytes.

    Raises:
        PayloadTooLarge: It has more bytes, or says so; no more than ``most`` are held.
        RequestTimeout: It did not arrive in time.
    """
    if announced is not None and announced > most:
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in chunks:
                body += chunk
                if len(body) > most:
                    raise _too_large(most)
            return bytes(body)
    except TimeoutError:
        raise RequestTimeout("The request's body did not arrive in time.") from None


def _too_large(most: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The request's body has more than {most} bytes, the most that is read here."
    )


def check_body_size(nbytes: int, model: ModelSettings, default: int | None = None) -> None:
    """Hold a body against the limit of the model that it asks for.

    Args:
        nbytes: Its size.
        model: The model's settings.
        default: The limit where they name none. Unset: their own default.

    Raises:
        PayloadTooLarge: It has more bytes.
    """
    limit = model.payload_limit
    if default is not None and "payload_limit" not in model.model_fields_set:
        limit = default
    if nbytes > limit:
        raise PayloadTooLarge(
            f"The request's body has more than {limit} bytes, the most that {model.name!r} takes."
        )


def parse_body(body: bytes, decoder: msgspec.json.Decoder[Body]) -> Body:
    """Parse a body that is one JSON object.

    A field that is there twice is refused, as two readers of the same body could take it for
    different ones.

    Raises:
        MalformedBody: It is no JSON.
        InvalidRequest: Naming the field and what it may be.
    """
    try:
        parsed = decoder.decode(body)
        twice = _doubled(body)
    except msgspec.ValidationError as error:
        raise _told(str(error), decoder.type) from None
    except RecursionError:
        raise _unparsed("it is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unparsed(str(error), _hint(body)) from None
    if twice is not None:
        raise InvalidRequest(f"'{twice}' is there twice in the request's body.", param=twice)
    return parsed


def _unparsed(reason: str, hint: str = "") -> MalformedBody:
    return MalformedBody(f"We could not parse the JSON body of your request ({reason}).{hint}")


def _hint(body: bytes) -> str:
    """What the parser's words leave unsaid."""
    if body.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return " It begins with a byte order mark; send UTF-8 without one."
    if rb"\ud" in body.lower():  # JavaScript writes it as an escape
        return " Half a surrogate pair is no text."
    return ""


def _doubled(body: bytes) -> str | None:
    """Find a field that an object has twice, or an object in it.

    The parser keeps the last of them. The text is walked from field to field: where another value
    stands than the one that was kept under that name, there are two.
    """
    kept = _fields.decode(body)
    seen: set[str] = set()
    at = body.index(b"{") + 1
    while field := _FIELD.match(body, at):
        name: str = msgspec.json.decode(field[1])
        value = bytes(kept[name])
        at = field.end() + len(value)
        is_kept = body.startswith(value, field.end()) and _AFTER_VALUE.match(body, at)
        if name in seen or not is_kept:
            return name
        seen.add(name)
        if value.startswith(b"{") and (inner := _doubled(value)) is not None:
            return inner
    return None


def _told(message: str, kind: Any) -> InvalidRequest:
    """Say a validation fault in the words of an API rather than of a parser."""
    if missing := _MISSING.search(message):
        return InvalidRequest(
            f"You must provide {missing[1]!r} in the request's body.", param=missing[1]
        )
    if unknown := _UNKNOWN.search(message):
        known = ", ".join(kind.__struct_fields__)
        return InvalidRequest(
            f"Unrecognized request argument supplied: {unknown[1]}. Known are {known}.",
            param=unknown[1],
        )
    if where := _PATH.search(message):
        path = where["path"].lstrip(".")
        fault = message[: where.start()]
        if fault.startswith("Invalid enum value"):
            fault += f"; allowed are {_allowed(kind, path)}"
        return InvalidRequest(f"'{path}' is invalid: {fault}.", param=path)
    return InvalidRequest(f"The request's body is invalid: {message}.")


def _allowed(kind: Any, path: str) -> str:
    name = re.split(r"[.\[]", path)[0]
    annotation = next(field.type for field in msgspec.structs.fields(kind) if field.name == name)
    return ", ".join(repr(choice) for choice in _choices(annotation))


def _choices(annotation: Any) -> list[Any]:
    """Values that an annotation, or the items of a list, may have."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for part in get_args(annotation) for choice in _choices(part)]
