# SPDX-License-Identifier: Apache-2.0
"""All routes, and how errors are told on each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

from litestar import Controller, Litestar, Request, Response
from litestar.config.cors import CORSConfig
from litestar.datastructures import MutableScopeHeaders, State
from litestar.di import Provide
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ControllerRouterHandler, Message, Scope

from appliance.access.grants import Scope as GrantScope
from appliance.api.config import ConfigController
from appliance.api.dashboard import DashboardController, to_dashboard
from appliance.api.docs import DocsController
from appliance.api.logs import LogsController
from appliance.api.metrics import MetricsController
from appliance.api.models import ModelsController
from appliance.api.queries import explain
from appliance.api.series import SeriesController
from appliance.api.status import StatusController
from appliance.api.system import SystemController
from appliance.api.tokens import TokensController
from appliance.auth import Guard, add_quota_headers
from appliance.errors import (
    ApplianceError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    PayloadTooLarge,
    RequestTimeout,
    RouteNotFound,
)
from appliance.openapi.headers import OPENAI_HEADERS, QUOTA_HEADERS
from appliance.openapi.operations import BEARER
from appliance.settings import Settings
from appliance.telemetry.notes import note_error
from compat import cohere_errors, ollama_errors
from compat.cohere import CohereController
from compat.ollama import OllamaController
from compat.openai import OpenAIController
from compat.openai_batches import BatchesController
from compat.openai_errors import render_error
from compat.openai_files import FilesController
from compat.rerank import CohereRerankController, RerankController
from compat.tei import errors as tei_errors
from compat.tei.controller import TeiController

__all__ = ["application", "dependencies", "routes"]

logger = logging.getLogger(__name__)

_DEPENDENCIES = (
    "batches",
    "document",
    "door",
    "engine",
    "reconfiguration",
    "recorder",
    "tail",
    "telemetry",
)
"""What handlers may ask for, as it is called in the application's state."""

ErrorRenderer = Callable[[ApplianceError, Request[Any, Any, Any]], Response[Any]]

_DIALECTS: tuple[tuple[type[Controller], ErrorRenderer], ...] = (
    (OpenAIController, render_error),
    (TeiController, tei_errors.render_error),
    (RerankController, render_error),
    (CohereRerankController, cohere_errors.render_error),
    (OllamaController, ollama_errors.render_error),
    (CohereController, cohere_errors.render_error),
    (BatchesController, render_error),
    (FilesController, render_error),
)
"""Routes, and how they tell of errors. What no dialect serves is answered as OpenAI's API does."""

_MANAGEMENT = (
    ConfigController,
    LogsController,
    ModelsController,
    SeriesController,
    StatusController,
    TokensController,
)

_EXPOSED_HEADERS = (
    *OPENAI_HEADERS,
    "retry-after",
    "retry-after-ms",
    "server-timing",
    "x-request-id",
    *QUOTA_HEADERS,
)
"""Headers that scripts of other origins may read."""


def routes(settings: Settings) -> list[ControllerRouterHandler]:
    """All that is served, with how its errors are told and what it asks for."""
    dialects = [
        _behind_the_door(controller, "embed", exception_handlers={Exception: _answering(render)})
        for controller, render in _DIALECTS
    ]
    management = [_behind_the_door(controller, "admin") for controller in _MANAGEMENT]
    metrics: type[Controller] = MetricsController
    if not settings.public_metrics:
        metrics = _behind_the_door(metrics, "admin")
    return [
        *dialects,
        to_dashboard,
        SystemController,
        DashboardController,
        DocsController,
        *management,
        metrics,
    ]


def _behind_the_door(
    controller: type[Controller], scope: GrantScope, **more: Any
) -> type[Controller]:
    """Routes that a token with a scope opens.

    As a class of its own: a router around them would be copied, with all that its handlers know of
    their parameters, and be looked through twice.
    """
    more |= {"guards": [Guard(scope)], "security": [{BEARER: [scope]}]}
    return type(controller.__name__, (controller,), more)


def application(
    served: Sequence[ControllerRouterHandler],
    settings: Settings,
    lifespan: Callable[[Litestar], AbstractAsyncContextManager[None]] | None = None,
) -> Litestar:
    """The framework's application, which finds the handler of a request.

    Args:
        served: The routes.
        settings: The instance's settings.
        lifespan: Surrounds its life. Unset: it is there to ask for handlers, and never started.
    """
    return Litestar(
        route_handlers=served,
        dependencies=dependencies(),
        exception_handlers={Exception: _answering(render_error)},
        lifespan=[] if lifespan is None else [lifespan],
        before_send=[add_quota_headers, _tell_methods],
        cors_config=_cors(settings),
        request_max_body_size=None,  # each route that reads a body has a limit of its own
        openapi_config=None,  # see Document
        logging_config=None,
    )


def dependencies() -> dict[str, Provide]:
    """What handlers may ask for, from the application's state."""
    return {name: _held(name) for name in _DEPENDENCIES}


def _cors(settings: Settings) -> CORSConfig | None:
    """Pages of the origins that are set may call, with keys that they send themselves."""
    if not settings.cors_allow_origins:
        return None
    return CORSConfig(
        allow_origins=list(settings.cors_allow_origins), expose_headers=list(_EXPOSED_HEADERS)
    )


def _held(name: str) -> Provide:
    """Hand on what the application's state holds."""

    def get(state: State) -> Any:
        return state[name]

    return Provide(get, sync_to_thread=False)


def _answering(render: ErrorRenderer) -> Callable[[Request[Any, Any, Any], Exception], Any]:
    """Answer whatever is raised, as one dialect does."""

    def answer(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        known = _known(request, error)
        note_error(known)
        response = render(known, request)
        if isinstance(known, MethodNotAllowed):
            response.headers["allow"] = ", ".join(_allowed_methods(request.scope))
        if isinstance(known, PayloadTooLarge | RequestTimeout):
            # The rest of the body may still come; nothing after it could be told from it.
            response.headers["connection"] = "close"
        return response

    return answer


def _known(request: Request[Any, Any, Any], error: Exception) -> ApplianceError:
    """Find the meaning of whatever was raised."""
    if isinstance(error, ApplianceError):
        return error
    call = f"{request.method} {request.url.path}"
    if isinstance(error, HTTPException) and error.status_code < InternalError.status:
        if error.status_code == RouteNotFound.status:
            return RouteNotFound(f"Invalid URL ({call}).")
        if error.status_code == MethodNotAllowed.status:
            return MethodNotAllowed(f"{call} is not served; the path is, for another method.")
        if isinstance(error, ValidationException):
            return explain(request, error)
        return InvalidRequest(error.detail)
    logger.error("%s failed", call, exc_info=error)
    return InternalError("The server had an error while processing your request.")


async def _tell_methods(message: Message, scope: Scope) -> None:
    """Name all methods of a path, not just those of one of its handlers, as the framework does."""
    if message["type"] == "http.response.start" and scope.get("method") == "OPTIONS":
        headers = MutableScopeHeaders.from_message(message)
        if "allow" in headers:
            headers["allow"] = ", ".join([*_allowed_methods(scope), "OPTIONS"])


def _allowed_methods(scope: Scope) -> list[str]:
    """Methods that the path of a request is served for."""
    router = scope["litestar_app"].asgi_router
    allowed = []
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
        with suppress(HTTPException):
            router.handle_routing(path=scope["path"], method=method)
            allowed.append(method)
    return allowed
