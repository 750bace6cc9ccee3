# SPDX-License-Identifier: Apache-2.0
"""How OpenAI's API tells of errors, and the headers of all its answers."""

from __future__ import annotations

import math
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
    Unauthenticated,
    UnknownKey,
)

__all__ = ["openai_headers", "render_error"]


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


def render_error(error: ApplianceError, request: Request[Any, Any, Any]) -> Response[ErrorResponse]:
    """Write an error as OpenAI's service would.

    Table of statuses, types and codes: seen in the wild, see the README's page on errors.
    """
    kind, code = next(
        ((kind, code) for cls, kind, code in _TYPES if isinstance(error, cls)),
        ("invalid_request_error" if error.status < 500 else "server_error", None),
    )
    headers = openai_headers(request)
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
        headers["retry-after-ms"] = str(math.ceil(error.retry_after * 1000))
    body = ErrorBody(error.message, kind, error.param, code)
    return Response(ErrorResponse(body), status_code=error.status, headers=headers)
