# SPDX-License-Identifier: Apache-2.0
"""A replica: the whole server in one process, asked by the front instead of over HTTP."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Any

import uvicorn
from ray import serve
from uvicorn.lifespan.on import LifespanOn

from appliance.app import create_app
from appliance.engine.service import Engine
from appliance.logs import configure_logging
from appliance.server import SWITCH_SECONDS
from appliance.settings import Settings
from embeddings_serve.arguments import Arguments, read_settings
from embeddings_serve.calls import Answer, Call, ask
from embeddings_serve.gauges import keep_gauges
from embeddings_serve.slots import Slots

__all__ = ["REPLICA_HEADER", "Replica"]

logger = logging.getLogger(__name__)

REPLICA_HEADER = b"x-served-by"
"""Names, in each answer, the replica that it is from."""


class Replica:
    """The server, in an actor of Ray's.

    Args:
        arguments: The deployment's.

    Raises:
        SettingsFault: The settings are bad.
        RuntimeError: No model that loads at the start could be loaded.
    """

    async def __init__(self, arguments: Arguments) -> None:  # type: ignore[misc]  # Ray awaits it
        settings = read_settings(arguments.config)
        os.environ.update(settings.environment)
        tail = configure_logging(settings)
        sys.setswitchinterval(SWITCH_SECONDS)
        self._slots = Slots(arguments.models_per_replica)
        settings = _fitted(settings, arguments)
        self._app = create_app(settings, self._slots.load, self._started, tail)
        self._name = serve.get_replica_context().replica_id.unique_id.encode()
        # Of the object, not of its class: Ray awaits it, Python's collector could not.
        self.__del__ = self._stop
        config = uvicorn.Config(self._app, lifespan="on", log_config=None)
        self._lifespan = LifespanOn(config)
        await self._lifespan.startup()
        if self._lifespan.should_exit:
            raise RuntimeError("the server could not start; the log says why")
        if await self._engine.all_failed():
            raise RuntimeError(f"no model could be loaded: {self._reasons()}")

    async def answer(self, call: Call) -> Answer:
        """Answer a request."""
        await self._slots.touch(call.model)
        answer = await ask(self._app, call)
        return answer._replace(headers=[*answer.headers, (REPLICA_HEADER, self._name)])

    async def check_health(self) -> None:
        """Have Ray replace a replica that cannot serve.

        Raises:
            RuntimeError: A device does not work, or no model can be loaded.
        """
        if self._engine.status == "failed":
            raise RuntimeError(self._engine.fault or self._reasons())

    def _started(self, engine: Engine) -> None:
        self._engine = self._slots.engine = engine
        self._gauges = asyncio.create_task(keep_gauges(engine, self._slots))

    async def _stop(self) -> None:
        """End, when all requests have been answered or their time is over."""
        self._engine.draining = True
        self._gauges.cancel()
        await self._lifespan.shutdown()

    def _reasons(self) -> str:
        return "; ".join(f"{model.name}: {model.reason}" for model in self._engine.models)


def _fitted(settings: Settings, arguments: Arguments) -> Settings:
    """Settings for one replica of several."""
    changes: dict[str, Any] = {}
    if len(settings.models) > arguments.models_per_replica:
        # Not all have a place: those are loaded that are asked for.
        changes["models"] = tuple(
            model.model_copy(update={"eager": False}) for model in settings.models
        )
    if settings.cpu_workers is None:
        changes["cpu_workers"] = max(1, int(arguments.cpus))
    return settings.model_copy(update=changes)
