# SPDX-License-Identifier: Apache-2.0
"""Request bodies: read within a time and a size, and parsed with faults that name the field."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
from litestar import Request

from appliance.errors import (
    InvalidRequest,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)
from appliance.settings import ModelSettings

__all__ = ["check_body_size", "parse_body", "read_json_body"]

Body = TypeVar("Body")

# What msgspec says, as of 0.22; anything else is passed on in its own words.
_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")
_UNKNOWN = re.compile(r"unknown field `([^`]*)`")


async def read_json_body(request: Request[Any, Any, Any], seconds: float, most: int) -> bytes:
    """Read a body that is declared as JSON, or not declared at all.

    The framework's own limit is fixed at the start, but models with larger ones may be added.

    Args:
        request: The request.
        seconds: Longest wait for all of it.
        most: Most bytes.

    Raises:
        UnsupportedMediaType: It is declared as something else.
        PayloadTooLarge: It has more bytes, or says so; no more than ``most`` are held.
        RequestTimeout: It did not arrive in time.
    """
    content_type = request.headers.get("content-type", "application/json")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType(
            f"Content-Type is {content_type!r}, but must be 'application/json'."
        )
    announced = request.content_length
    if announced is not None and announced > most:
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
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


def check_body_size(body: bytes, model: ModelSettings) -> None:
    """Hold a body against the limit of the model that it asks for.

    Raises:
        PayloadTooLarge: It has more bytes.
    """
    if len(body) > model.payload_limit:
        raise PayloadTooLarge(
            f"The request's body has more than {model.payload_limit} bytes, the most that"
            f" {model.name!r} takes."
        )


def parse_body(body: bytes, decoder: msgspec.json.Decoder[Body]) -> Body:
    """Parse a body.

    Raises:
        InvalidRequest: Naming the field and what it may be.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _told(str(error), decoder.type) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # JavaScript writes half a surrogate pair as an escape; the parser's words do not say so.
        hint = " Half a surrogate pair is no text." if rb"\ud" in body.lower() else ""
        raise InvalidRequest(
            f"We could not parse the JSON body of your request ({error}).{hint}"
        ) from None


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


def _allowed(kind: Any, name: str) -> str:
    annotation = next(field.type for field in msgspec.structs.fields(kind) if field.name == name)
    choices = [
        choice
        for part in (annotation, *get_args(annotation))
        if get_origin(part) is Literal
        for choice in get_args(part)
    ]
    return ", ".join(repr(choice) for choice in choices)
