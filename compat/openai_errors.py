# SPDX-License-Identifier: Apache-2.0
"""How OpenAI's API tells of errors, and the headers of all its answers."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response

from appliance.context import elapsed_milliseconds
from appliance.errors import (
    ApplianceError,
    MethodNotAllowed,
    ModelNotAllowed,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    RequestsExceeded,
    RequestTooManyTokens,
    TokensExceeded,
    TooManyAttempts,
    UnknownKey,
)
from compat.refusing import refusal_headers

__all__ = ["ErrorResponse", "error_response", "openai_headers", "render_error"]


class ErrorBody(msgspec.Struct):
    """What went wrong.

    Attributes:
        message: For people.
        type: Kind of error.
        param: Path of the field that is at fault, if one is: ``input[3]``.
        code: Kind of error, closer.
    """

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(msgspec.Struct):
    """Every error of this dialect.

    Attributes:
        error: What went wrong.
    """

    error: ErrorBody


def openai_headers(request: Request[Any, Any, Any]) -> dict[str, str]:
    """Headers that every answer has."""
    return {
        "openai-processing-ms": str(round(elapsed_milliseconds(request.scope))),
        "openai-version": "2020-10-01",
    }


_TYPES: tuple[tuple[type[ApplianceError], str, str | None], ...] = (
    (UnknownKey, "invalid_request_error", "invalid_api_key"),
    (ModelNotAllowed, "invalid_request_error", "model_not_found"),
    (PermissionDenied, "invalid_request_error", "insufficient_permissions"),
    (ModelNotFound, "invalid_request_error", "model_not_found"),
    (RequestTooManyTokens, "max_tokens_per_request", "max_tokens_per_request"),
    (Overloaded, "requests", "rate_limit_exceeded"),
    (RequestsExceeded, "requests", "rate_limit_exceeded"),
    (TokensExceeded, "tokens", "rate_limit_exceeded"),
    (TooManyAttempts, "requests", "rate_limit_exceeded"),
    (MethodNotAllowed, "invalid_request_error", "method_not_supported"),
)


def error_response(error: ApplianceError) -> ErrorResponse:
    """Write an error's body as OpenAI's service would.

    Table of statuses, types and codes: seen in the wild, see the README's page on errors.
    """
    kind, code = next(
        ((kind, code) for cls, kind, code in _TYPES if isinstance(error, cls)),
        ("invalid_request_error" if error.status < 500 else "server_error", None),
    )
    return ErrorResponse(ErrorBody(error.message, kind, error.param, code))


def render_error(error: ApplianceError, request: Request[Any, Any, Any]) -> Response[ErrorResponse]:
    """Write an error as OpenAI's service would."""
    headers = openai_headers(request) | refusal_headers(error)
    return Response(error_response(error), status_code=error.status, headers=headers)
