# SPDX-License-Identifier: Apache-2.0
"""The process: its log, its socket, its signals and its exit code."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from functools import partial
from types import FrameType

import uvicorn

from appliance.app import create_app
from appliance.engine.service import Engine
from appliance.engine.swap_folder import SwapFolder
from appliance.idle import watch_idleness
from appliance.settings import Settings

__all__ = ["serve"]

logger = logging.getLogger(__name__)

EXIT_FAILED = 1
KEEP_ALIVE_SECONDS = 75


class ApplianceServer(uvicorn.Server):
    """uvicorn, told of the engine.

    Attributes:
        exit_code: 0, or 1 if the server stopped because no model could be loaded.
    """

    def __init__(self, settings: Settings) -> None:
        self._engine: Engine | None = None
        self._watches: list[asyncio.Task[None]] = []
        self.exit_code = 0
        super().__init__(
            uvicorn.Config(
                create_app(settings, on_engine=self._started),
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                # Longer than clients keep an idle connection, so that none is closed on a request.
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                lifespan="on",
                timeout_graceful_shutdown=math.ceil(settings.drain_timeout_seconds),
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Take a signal: the first lets accepted work finish, the second does not.

        uvicorn would raise the signal again once it has stopped, and so die of it; to be told to
        stop and to have stopped is no fault.
        """
        self.force_exit = self.should_exit
        self.should_exit = True
        if self._engine is not None:
            self._engine.draining = True

    def _started(self, engine: Engine) -> None:
        self._engine = engine
        self._watches = [
            asyncio.create_task(self._stop_if_nothing_loads(engine)),
            asyncio.create_task(watch_idleness(engine, partial(self._stop, engine))),
        ]

    async def _stop_if_nothing_loads(self, engine: Engine) -> None:
        if await engine.all_failed():
            logger.error("no model could be loaded; stopping")
            self.exit_code = EXIT_FAILED
            self.should_exit = True

    def _stop(self, engine: Engine) -> None:
        engine.draining = True
        self.should_exit = True


def serve(settings: Settings) -> int:
    """Serve until told to stop.

    Returns:
        The exit code.
    """
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if not settings.api_keys and settings.host not in ("127.0.0.1", "::1", "localhost"):
        logger.warning(
            "listening on %s without api_keys: whoever reaches the port may use it", settings.host
        )
    if settings.disk_swap:
        try:
            SwapFolder(settings.swap_folder).close()
        except OSError as error:
            logger.error("swap_dir: %s", error)
            return EXIT_FAILED
    server = ApplianceServer(settings)
    with suppress(SystemExit):  # uvicorn's way to say that the port is taken
        server.run()
    return server.exit_code if server.started else EXIT_FAILED
