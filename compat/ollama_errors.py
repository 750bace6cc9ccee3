# SPDX-License-Identifier: Apache-2.0
"""How Ollama's API tells of errors."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response

from appliance.errors import ApplianceError, InputTooLong, ModelNotFound, Overloaded
from appliance.openapi.operations import Refusals
from compat.refusing import refusal_headers

__all__ = ["REFUSALS", "render_error", "unknown_model"]


class OllamaError(msgspec.Struct):
    """Every error of this dialect.

    Attributes:
        error: What went wrong.
    """

    error: str


def _status(kind: type[ApplianceError]) -> int:
    """What Ollama answers where its queue is full is 503."""
    return 503 if issubclass(kind, Overloaded) else kind.status


REFUSALS = Refusals(OllamaError, status=_status)
"""For the API's description."""


def unknown_model(name: str, error: ModelNotFound) -> ModelNotFound:
    """Tell of a model that is not served. It begins with the words that clients look for."""
    return ModelNotFound(
        f'model "{name}" not found, try pulling it first. Nothing is pulled here: a model is added'
        f" by POST /api/models. {error.message}",
        param="model",
    )


def render_error(error: ApplianceError, _: Request[Any, Any, Any]) -> Response[OllamaError]:
    """Write an error as Ollama would.

    Statuses and words: ``server/routes.go`` and ``server/sched.go`` of Ollama's sources.
    """
    message = error.message
    if isinstance(error, InputTooLong):
        message = (
            f"the input length exceeds the context length: {error.param} has"
            f" {error.count or f'more than {error.limit}'} tokens, and the model reads"
            f" {error.limit}. Shorten it, or leave truncate out to have it cut."
        )
    elif isinstance(error, Overloaded):
        message = f"server busy, please try again. {message}"
    return Response(
        OllamaError(message), status_code=_status(type(error)), headers=refusal_headers(error)
    )
