# SPDX-License-Identifier: Apache-2.0
"""How Cohere's API tells of errors."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response

from appliance.errors import (
    ApplianceError,
    InputTooLong,
    ModelNotFound,
    Unauthenticated,
    UnknownKey,
)
from appliance.logs import current_request_id
from appliance.openapi.operations import Refusals
from compat.refusing import refusal_headers

__all__ = ["REFUSALS", "render_error"]


class CohereError(msgspec.Struct):
    """Every error of this dialect.

    Attributes:
        id: The request's id, as in ``x-request-id``.
        message: What went wrong.
    """

    id: str
    message: str


REFUSALS = Refusals(CohereError)
"""For the API's description."""

# What client libraries look for, before the server's own words.
_PREFIXES: tuple[tuple[type[ApplianceError], str], ...] = (
    (UnknownKey, "invalid api token: "),
    (Unauthenticated, "no api key supplied: "),
    (InputTooLong, "too many tokens: "),
    (ModelNotFound, "model not found, make sure the correct model ID was used: "),
)


def render_error(error: ApplianceError, _: Request[Any, Any, Any]) -> Response[CohereError]:
    """Write an error as Cohere's service would (https://docs.cohere.com/reference/errors)."""
    prefix = next((words for kind, words in _PREFIXES if isinstance(error, kind)), "")
    body = CohereError(current_request_id.get() or "", prefix + _words(error))
    return Response(body, status_code=error.status, headers=refusal_headers(error))


def _words(error: ApplianceError) -> str:
    """The engine's words, with the names that fields have in this API."""
    if isinstance(error, InputTooLong):
        return (
            f"{error.param} has {error.count or f'more than {error.limit}'} tokens, and at most"
            f" {error.limit} are read. Shorten it, or send truncate: END to have it cut."
        )
    if error.param == "dimensions":
        return error.message.replace("dimensions", "output_dimension", 1)
    return error.message
