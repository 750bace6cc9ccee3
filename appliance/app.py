# SPDX-License-Identifier: Apache-2.0
"""The composition root: where settings, engine, routes and error shapes meet."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from litestar import Litestar, Request, Response, Router
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException

from appliance.access.door import Door
from appliance.api.models import ModelsController
from appliance.api.status import StatusController
from appliance.api.system import SystemController
from appliance.api.tokens import TokensController
from appliance.auth import Guard, add_quota_headers
from appliance.context import RequestContext
from appliance.engine.service import Engine, Loader
from appliance.errors import (
    ApplianceError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    PayloadTooLarge,
    RequestTimeout,
    RouteNotFound,
)
from appliance.persistence import KeptModels
from appliance.settings import Settings
from compat.openai import OpenAIController
from compat.openai_errors import render_error

__all__ = ["create_app"]

logger = logging.getLogger(__name__)

_EXPOSED_HEADERS = (
    "openai-processing-ms",
    "retry-after",
    "retry-after-ms",
    "server-timing",
    "x-request-id",
    *(
        f"x-ratelimit-{what}-{kind}"
        for what in ("limit", "remaining", "reset")
        for kind in ("requests", "tokens")
    ),
)
"""Headers that scripts of other origins may read."""


def create_app(
    settings: Settings,
    load: Loader | None = None,
    on_engine: Callable[[Engine], None] | None = None,
) -> RequestContext:
    """Put the server together.

    Args:
        settings: The instance's settings.
        load: Loads one model. Unset: the real thing.
        on_engine: Told of the engine once it has started.

    Returns:
        An ASGI application.

    Raises:
        SettingsFault: What outlived the last start cannot be read.
    """
    kept = None if settings.data_dir is None else KeptModels(settings.data_dir)
    door = Door(settings)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        engine = Engine(settings, load, kept)
        app.state.engine = engine
        door.start()
        await engine.start()
        if on_engine is not None:
            on_engine(engine)
        try:
            yield
        finally:
            await engine.stop()
            await door.stop()

    dialects = Router("/", route_handlers=[OpenAIController], guards=[Guard("embed")])
    management = Router(
        "/",
        route_handlers=[ModelsController, StatusController, TokensController],
        guards=[Guard("admin")],
    )
    app = Litestar(
        route_handlers=[SystemController, dialects, management],
        dependencies={
            "engine": Provide(_engine, sync_to_thread=False),
            "door": Provide(_door, sync_to_thread=False),
        },
        exception_handlers={Exception: _answer_error},
        lifespan=[lifespan],
        before_send=[add_quota_headers],
        cors_config=_cors(settings),
        request_max_body_size=None,  # each route that reads a body has a limit of its own
        openapi_config=None,
        logging_config=None,
    )
    app.state.door = door
    return RequestContext(app)


def _cors(settings: Settings) -> CORSConfig | None:
    """Pages of the origins that are set may call, with keys that they send themselves."""
    if not settings.cors_allow_origins:
        return None
    return CORSConfig(
        allow_origins=list(settings.cors_allow_origins), expose_headers=list(_EXPOSED_HEADERS)
    )


def _engine(state: State) -> Engine:
    engine: Engine = state.engine
    return engine


def _door(state: State) -> Door:
    door: Door = state.door
    return door


def _answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    known = _known(request, error)
    response = render_error(known, request)
    if isinstance(known, MethodNotAllowed):
        response.headers["allow"] = ", ".join(_allowed_methods(request))
    if isinstance(known, PayloadTooLarge | RequestTimeout):
        # The rest of the body may still come; nothing after it could be told from it.
        response.headers["connection"] = "close"
    return response


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
        return InvalidRequest(error.detail)
    logger.error("%s failed", call, exc_info=error)
    return InternalError("The server had an error while processing your request.")


def _allowed_methods(request: Request[Any, Any, Any]) -> list[str]:
    """Methods that the path of a request is served for."""
    router = request.app.asgi_router
    allowed = []
    for method in ("GET", "POST", "PUT", "DELETE"):
        with suppress(HTTPException):
            router.handle_routing(path=request.scope["path"], method=method)
            allowed.append(method)
    return allowed
