# SPDX-License-Identifier: Apache-2.0
"""The composition root: where settings, engine, routes and error shapes meet."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.types import ASGIApp

from appliance.access.door import Door, is_open
from appliance.batches.service import Batches
from appliance.configuration import Configuration
from appliance.context import RequestContext, UnderRoute
from appliance.engine.service import Engine, Loader
from appliance.logs import LogTail
from appliance.openapi.document import Document
from appliance.persistence import KeptModels
from appliance.published import route_path
from appliance.reconfiguration import Reconfiguration
from appliance.routes import application, dependencies, routes
from appliance.series.recorder import Recorder
from appliance.settings import Settings
from appliance.telemetry.instance import Telemetry
from appliance.telemetry.middleware import RequestTelemetry
from compat.openai_rows import answering

__all__ = ["create_app"]


def create_app(
    settings: Settings,
    load: Loader | None = None,
    on_engine: Callable[[Engine], None] | None = None,
    tail: LogTail | None = None,
    configuration: Configuration | None = None,
) -> ASGIApp:
    """Put the server together.

    Args:
        settings: The instance's settings.
        load: Loads one model. Unset: the real thing.
        on_engine: Told of the engine once it has started.
        tail: The end of the log. Unset: one that begins with the server.
        configuration: Where the settings came from. Unset: from a program.

    Returns:
        An ASGI application.

    Raises:
        SettingsFault: What outlived the last start cannot be read.
    """
    kept = None if settings.data_dir is None else KeptModels(settings.data_dir)
    door = Door(settings)
    telemetry = Telemetry(settings)
    batches = Batches(settings, door, answering)

    tail = tail or LogTail()
    recorder = Recorder(settings.data_dir, lambda: app.state.engine.catalogue.waiting_tokens)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        logging.getLogger().addHandler(tail)
        engine = Engine(settings, load, kept, telemetry)
        app.state.engine = engine
        door.start()
        await engine.start()
        telemetry.start(engine)
        recorder.start()
        batches.start(engine)
        if on_engine is not None:
            on_engine(engine)
        try:
            yield
        finally:
            await batches.stop()
            await recorder.stop()
            await engine.stop()
            await door.stop()
            logging.getLogger().removeHandler(tail)
            await telemetry.stop()

    served = routes(settings)
    app = application(served, settings, lifespan)
    app.state.batches = batches
    app.state.door = door
    app.state.recorder = recorder
    app.state.tail = tail
    app.state.reconfiguration = Reconfiguration(configuration or Configuration.of(settings), kept)
    app.state.telemetry = telemetry
    app.state.document = Document(served, dependencies(), is_open=is_open(settings))
    # Telemetry stands outside, so that whatever is logged of a request can name its trace.
    measured = RequestTelemetry(RequestContext(app), telemetry, [recorder.note])
    path = route_path(settings.route)
    return UnderRoute(measured, path, app.routes) if path else measured
