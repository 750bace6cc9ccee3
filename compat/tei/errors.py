# SPDX-License-Identifier: Apache-2.0
"""How text-embeddings-inference tells of errors."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from litestar import Request, Response

from appliance.errors import (
    ApplianceError,
    EmptyInput,
    InputTooLong,
    InternalError,
    InvalidRequest,
    MalformedBody,
    ModelUnavailable,
    Overloaded,
    RequestsExceeded,
    StorageFailed,
    StoreUnavailable,
    TokensExceeded,
    TooManyAttempts,
    TooManyInputs,
    Unauthenticated,
    WrongModelKind,
)
from appliance.openapi.operations import Refusals
from compat.refusing import refusal_headers

__all__ = ["REFUSALS", "NothingGiven", "invalid", "render_error"]

ErrorType = Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


class TeiError(msgspec.Struct):
    """Every error of this dialect.

    Attributes:
        error: What went wrong, for people.
        error_type: Kind of error.
    """

    error: str
    error_type: ErrorType


class NothingGiven(EmptyInput):
    """A list that must hold something holds nothing."""

    def __init__(self, field: str) -> None:
        super().__init__(f"`{field}` cannot be empty", param=field)


def invalid(message: str, field: str) -> InvalidRequest:
    """A field that is not as it must be, in the words that TEI has for it."""
    return InvalidRequest(f"Input validation error: {message}", param=field)


# The first that fits; what fits none has its own status.
_MEANINGS: tuple[tuple[type[ApplianceError], int | None, ErrorType], ...] = (
    (NothingGiven, 400, "Empty"),
    (MalformedBody, 400, "Validation"),
    (WrongModelKind, 424, "Backend"),
    (InvalidRequest, 422, "Validation"),
    (InternalError, 424, "Backend"),
    (StorageFailed, 424, "Backend"),
    (Overloaded, None, "Overloaded"),
    (RequestsExceeded, None, "Overloaded"),
    (TokensExceeded, None, "Overloaded"),
    (TooManyAttempts, None, "Overloaded"),
    (ModelUnavailable, None, "Unhealthy"),
    (StoreUnavailable, None, "Unhealthy"),
)


def _meaning(kind: type[ApplianceError]) -> tuple[int, ErrorType]:
    for known, status, told in _MEANINGS:
        if issubclass(kind, known):
            return status or kind.status, told
    return kind.status, "Validation"


def _status(kind: type[ApplianceError]) -> int:
    return _meaning(kind)[0]


REFUSALS = Refusals(TeiError, status=_status, without_body=frozenset({Unauthenticated.status}))
"""For the API's description."""


def render_error(
    error: ApplianceError, _: Request[Any, Any, Any]
) -> Response[TeiError] | Response[bytes]:
    """Write an error as TEI would.

    Statuses and kinds: ``router/src/lib.rs`` and ``router/src/http/server.rs`` there. What it
    answers in plain text, such as bad JSON, has the same shape here as the rest.
    """
    headers = refusal_headers(error)
    if isinstance(error, Unauthenticated):
        return Response(b"", status_code=error.status, headers=headers)
    status, kind = _meaning(type(error))
    return Response(TeiError(_words(error), kind), status_code=status, headers=headers)


def _words(error: ApplianceError) -> str:
    """TEI's own words for what clients are known to look for."""
    if isinstance(error, TooManyInputs):
        return f"batch size {error.count} > maximum allowed batch size {error.limit}"
    if isinstance(error, InputTooLong):
        given = f"more than {error.limit}" if error.count is None else error.count
        return (
            f"Input validation error: `inputs` must have less than {error.limit} tokens. Given:"
            f" {given}"
        )
    if isinstance(error, NothingGiven):
        return error.message
    if isinstance(error, EmptyInput):
        return "Input validation error: `inputs` cannot be empty"
    if isinstance(error, WrongModelKind):
        return f"Backend error: {error.message}"
    return error.message
