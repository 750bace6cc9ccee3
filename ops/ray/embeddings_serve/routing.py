# SPDX-License-Identifier: Apache-2.0
"""What the front has to know of a request: its model, its limits, and how its errors are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Controller, Request, Response
from litestar.exceptions import HTTPException
from litestar.types import Scope

from appliance.api.config import ConfigController
from appliance.api.dashboard import DashboardController
from appliance.api.logs import LogsController
from appliance.api.metrics import MetricsController
from appliance.api.models import ModelsController
from appliance.api.series import SeriesController
from appliance.api.tokens import TokensController
from appliance.errors import ApplianceError, Conflict, RouteNotFound
from appliance.forms import FORM_BYTES
from appliance.published import route_path
from appliance.routes import application, routes
from appliance.settings import ModelSettings, Settings
from appliance.telemetry.middleware import EMBEDS
from compat.handling import model_name
from compat.openai_batches import BatchesController
from compat.openai_files import MOST_BYTES, FilesController
from compat.tei.controller import TeiController

__all__ = ["Route", "Routing"]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_KEEPING: tuple[type[Controller], ...] = (
    BatchesController,
    ConfigController,
    FilesController,
    ModelsController,
    TokensController,
)
"""Routes that change something, so that a request is sent once."""

_OF_ONE_PROCESS: dict[type[Controller], str] = {
    DashboardController: "The dashboard shows one process. On Ray there are several: see Ray's own"
    " dashboard, and what the replicas send by otlp_endpoint.",
    LogsController: "The log is that of one process. On Ray there are several: see the logs of the"
    " deployment Embeddings in Ray's dashboard.",
    MetricsController: "Metrics are those of one process. On Ray there are several: read Ray's own"
    " metrics, and set otlp_endpoint to have each replica send all of the server's.",
    SeriesController: "Series are those of one process. On Ray there are several: read Ray's own"
    " metrics, and set otlp_endpoint to have each replica send all of the server's.",
}
_FIXED = (
    "Replicas on Ray have their models and settings from args.config of the Serve config file: "
    "change that, and have it rolled out by serve deploy."
)

Renderer = Callable[[Request[Any, Any, Any], ApplianceError], Response[Any]]


class _Named(msgspec.Struct):
    """The one field of a body that is looked at.

    Attributes:
        model: Name of a model, if it is one.
    """

    model: Any = None


_decoder = msgspec.json.Decoder(_Named)


@dataclass(frozen=True, slots=True)
class Route:
    """What a request asks for.

    Attributes:
        render: Tells of errors, in the shape of the dialect.
        is_repeatable: Whether a replica may be asked what another may have begun to do.
        most_bytes: Bytes that its body may have.
        refusal: Why no replica is asked, if none is.
        named: The model that its path names.
        is_of_model: Whether it is for a model, if need be for the default one.
    """

    render: Renderer
    is_repeatable: bool
    most_bytes: int
    refusal: ApplianceError | None = None
    named: str = ""
    is_of_model: bool = False


class Routing:
    """Finds what a request asks for, by the server's own routes.

    Args:
        settings: The server's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._app = application(routes(settings), settings)
        self._render: Renderer = self._app.exception_handlers[Exception]
        self._names = {name: model.name for model in settings.models for name in model.names}
        self._default = settings.models[0].name
        self._takes_any = settings.any_model_name
        default: int = ModelSettings.model_fields["payload_limit"].default
        self._payload = max(default, *(model.payload_limit for model in settings.models))
        self._below = route_path(settings.route)

    def find(self, scope: Scope) -> Route:
        """What a request asks for, by its method and path."""
        method = str(scope.get("method"))
        path = scope["path"]
        if self._below and path.startswith(f"{self._below}/"):
            path = path[len(self._below) :]
        safe = method in SAFE_METHODS
        try:
            router = self._app.asgi_router
            _, handler, _, parameters, _ = router.handle_routing(path=path, method=method)
        except HTTPException:  # a replica answers that there is no such thing
            return Route(self._render, safe, self._payload)
        controller = type(getattr(handler.fn, "__self__", None))
        name = str(parameters.get("name", ""))
        return Route(
            handler.resolve_exception_handlers().get(Exception, self._render),
            safe or not issubclass(controller, _KEEPING),
            MOST_BYTES + FORM_BYTES if issubclass(controller, FilesController) else self._payload,
            _refusal(controller, safe=safe),
            model_name(parameters.get("owner"), name) if name else "",
            bool(handler.opt.get(EMBEDS)) or issubclass(controller, TeiController),
        )

    def model(self, route: Route, body: bytes) -> str:
        """Name of the model that a request is for, as it is served; empty if it is for none."""
        named = self._served(route.named) or (self._served(_named(body)) if body else "")
        if named or not route.is_of_model:
            return named
        return self._default if self._takes_any or not (route.named or _named(body)) else ""

    def _served(self, name: str) -> str:
        # Ollama's clients put a tag behind a name.
        return self._names.get(name) or self._names.get(name.removesuffix(":latest"), "")


def _refusal(controller: type[Any], *, safe: bool) -> ApplianceError | None:
    for one, elsewhere in _OF_ONE_PROCESS.items():
        if issubclass(controller, one):
            return RouteNotFound(elsewhere)
    if issubclass(controller, (ModelsController, ConfigController)) and not safe:
        return Conflict(_FIXED)
    return None


def _named(body: bytes) -> str:
    """The model that a body names. Whatever is wrong with it, a replica tells."""
    try:
        name = _decoder.decode(body).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return name if isinstance(name, str) else ""
