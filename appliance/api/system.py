# SPDX-License-Identifier: Apache-2.0
"""Whether the instance lives, and whether it takes requests."""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import Controller, HttpMethod, Response, route
from litestar.di import NamedDependency
from litestar.params import FromPath

from appliance.engine.served import ModelState
from appliance.engine.service import Engine
from appliance.errors import ModelNotFound
from appliance.openapi.operations import operation

__all__ = ["SystemController"]


class ModelHealth(msgspec.Struct, omit_defaults=True):
    """One model, for ``/health``.

    Attributes:
        name: The name that answers carry.
        state: Where it stands.
        reason: Why it failed, if it did.
    """

    name: str
    state: ModelState
    reason: str = ""


class Health(msgspec.Struct, omit_defaults=True):
    """The answer of ``/health`` and ``/ready``.

    Attributes:
        status: ``ok``: requests are answered.
        models: Each model.
        reason: What keeps a device from its work, if anything does.
    """

    status: Literal["ok", "loading", "failed", "stopping"]
    models: list[ModelHealth]
    reason: str = ""


_READ = (HttpMethod.GET, HttpMethod.HEAD)
_answers = operation(answers={200: Health, 503: Health})


class SystemController(Controller):
    """Health routes. They wake no model and ask for no token."""

    tags = ("Health",)

    @route("/health", http_method=_READ, sync_to_thread=False, operation_class=_answers)
    def health(self, engine: NamedDependency[Engine]) -> Response[Health]:
        """Tell whether models answer.

        200 once every model that can be served has run a forward pass, else 503. 503 again while a
        device does not work: a batch takes longer than ``forward_timeout_seconds``, or a thread has
        died and was not replaced yet.
        """
        return _answer(engine, engine.status)

    @route(
        "/ping",
        http_method=_READ,
        sync_to_thread=False,
        operation_class=operation(answers={200: None, 503: None}),
    )
    def ping(self, engine: NamedDependency[Engine]) -> Response[bytes]:
        """Tell whether models answer, by the status alone."""
        return Response(b"", status_code=200 if engine.status == "ok" else 503)

    @route(
        ["/{name:str}/health", "/{owner:str}/{name:str}/health"],
        http_method=_READ,
        sync_to_thread=False,
        operation_class=operation(ModelNotFound, answers={200: ModelHealth, 503: ModelHealth}),
    )
    def model_health(
        self,
        engine: NamedDependency[Engine],
        name: FromPath[str],
        owner: FromPath[str | None] = None,
    ) -> Response[ModelHealth]:
        """Tell whether one model answers, be it after it was loaded for a request."""
        model = engine.model(name if owner is None else f"{owner}/{name}")
        failed = bool(engine.fault) or model.state == "failed"
        loads_first = model.state == "loading" and not model.was_tried
        return Response(
            ModelHealth(model.name, model.state, model.reason or engine.fault),
            status_code=503 if failed or loads_first else 200,
            headers={"retry-after": "1"} if loads_first else {},
        )

    @route("/ready", http_method=_READ, sync_to_thread=False, operation_class=_answers)
    def ready(self, engine: NamedDependency[Engine]) -> Response[Health]:
        """Tell whether to send requests.

        Like ``/health``, but 503 as soon as the server has been told to stop.
        """
        return _answer(engine, "stopping" if engine.draining else engine.status)


def _answer(
    engine: Engine, status: Literal["ok", "loading", "failed", "stopping"]
) -> Response[Health]:
    models = [ModelHealth(model.name, model.state, model.reason) for model in engine.models]
    headers = {"retry-after": "1"} if status == "loading" else {}
    return Response(
        Health(status, models, engine.fault),
        status_code=200 if status == "ok" else 503,
        headers=headers,
    )
