# SPDX-License-Identifier: Apache-2.0
"""The composition root: where settings, engine, routes and error shapes meet."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from litestar import Litestar, Request, Response, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException

from appliance.api.models import ModelsController
from appliance.api.status import StatusController
from appliance.api.system import SystemController
from appliance.auth import BearerGuard
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
from compat.openai import OpenAIController, render_error

__all__ = ["create_app"]

logger = logging.getLogger(__name__)


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

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        engine = Engine(settings, load, kept)
        app.state.engine = engine
        await engine.start()
        if on_engine is not None:
            on_engine(engine)
        try:
            yield
        finally:
            await engine.stop()

    guard = BearerGuard([key.get_secret_value() for key in settings.api_keys])
    guarded = Router(
        "/", route_handlers=[OpenAIController, ModelsController, StatusController], guards=[guard]
    )
    app = Litestar(
        route_handlers=[SystemController, guarded],
        dependencies={"engine": Provide(_engine, sync_to_thread=False)},
        exception_handlers={Exception: _answer_error},
        lifespan=[lifespan],
        request_max_body_size=None,  # each route that reads a body has a limit of its own
        openapi_config=None,
        logging_config=None,
    )
    return RequestContext(app)


def _engine(state: State) -> Engine:
    engine: Engine = state.engine
    return engine


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
