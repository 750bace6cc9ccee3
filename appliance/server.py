# SPDX-License-Identifier: Apache-2.0
"""The process: its log, its socket, its signals and its exit code."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import sys
from contextlib import suppress
from types import FrameType

import uvicorn
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from appliance.app import create_app
from appliance.bounded_http import BoundedHttp, allow_many_connections
from appliance.configuration import Configuration
from appliance.engine.service import Engine
from appliance.engine.swap_folder import SwapFolder
from appliance.idle import watch_idleness
from appliance.listening import bind_shared, take_waiting
from appliance.logs import LogTail, configure_logging
from appliance.settings import Settings

__all__ = ["serve"]

logger = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_OF_SIGNAL = 128
"""What a shell adds to the number of the signal that ended a process."""

KEEP_ALIVE_SECONDS = 75
LINGER_SECONDS = 3.0
"""Time after the order to stop in which an idle connection is kept for a request that may be on
its way; the answer tells the client to close it."""

LOOK_SECONDS = 0.05

SWITCH_SECONDS = 0.0005
"""After how long the thread that runs Python gives way to another that wants to: a worker needs it
some two hundred times a batch, while the event loop may be answering many small requests."""

GOODBYE_SECONDS = 0.5
"""Time in which a client has to agree to the end of its TLS connection, once it has been told."""

ANSWER_SECONDS = 15
"""Time that is left to answer, with an error, what could not be finished in time."""

_CLOSE = (b"connection", b"close")


class ApplianceServer(uvicorn.Server):
    """uvicorn, told of the engine.

    Args:
        settings: The instance's settings.
        tail: The end of the log. Unset: one that begins with the server.
        configuration: Where the settings came from. Unset: from a program.

    Attributes:
        exit_code: 0, or 1 if the server stopped because no model could be loaded.
    """

    def __init__(
        self,
        settings: Settings,
        tail: LogTail | None = None,
        configuration: Configuration | None = None,
    ) -> None:
        self._engine: Engine | None = None
        self._watches: list[asyncio.Task[None]] = []
        self._is_told = False
        self._drain_seconds = settings.drain_timeout_seconds
        self.exit_code = 0
        super().__init__(
            uvicorn.Config(
                self._closing(create_app(settings, None, self._started, tail, configuration)),
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                server_header=False,
                http=BoundedHttp,
                ws="none",
                ssl_certfile=settings.tls_certificate,
                ssl_keyfile=settings.tls_key,
                # Longer than clients keep an idle connection, so that none is closed on a request.
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                lifespan="on",
                timeout_graceful_shutdown=math.ceil(settings.drain_timeout_seconds)
                + ANSWER_SECONDS,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Take a signal: the first lets accepted work finish, the second does not.

        uvicorn would raise the signal again once it has stopped, and so die of it; to be told to
        stop and to have stopped is no fault.
        """
        if self._is_told:  # whatever runs or hangs on whatever thread
            os.write(2, b"told to stop once more: stopping at once\n")
            os._exit(EXIT_OF_SIGNAL + sig)
        self._is_told = True
        self._stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say where."""
        await super().startup(sockets)
        if sockets is not None and self.started:
            self._log_started_message(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what was accepted, and answer the rest when the time for that is over."""
        deadline = asyncio.get_running_loop().time() + self._drain_seconds
        if sockets is not None:
            await self._leave_to_others(sockets)
        await self._linger()
        meanwhile = [
            asyncio.create_task(self._end_at(deadline)),
            asyncio.create_task(self._abandon_the_silent()),
        ]
        try:
            await super().shutdown(sockets)
        finally:
            for task in meanwhile:
                task.cancel()

    async def _leave_to_others(self, sockets: list[socket.socket]) -> None:
        """Stop listening at once, so that new connections go to the servers that share the port."""
        loop = asyncio.get_running_loop()
        taken = []
        for listener, server in zip(sockets, self.servers, strict=True):
            # Nothing between the two: what comes there is lost.
            taken += take_waiting(listener)
            server.close()

        async def serve(connection: socket.socket) -> None:
            with suppress(OSError):  # of a client that has left, or does not get on with TLS
                await loop.connect_accepted_socket(self._protocol, connection, ssl=self.config.ssl)

        serving = [asyncio.create_task(serve(connection)) for connection in taken]
        if serving:  # a TLS handshake takes as long as the client likes
            await asyncio.wait(serving, timeout=LINGER_SECONDS)

    def _protocol(self) -> asyncio.Protocol:
        return BoundedHttp(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )

    async def _linger(self) -> None:
        """Wait until each connection was told to close, by an answer to its next request.

        uvicorn closes idle ones without a word, even if a request is on its way.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + min(LINGER_SECONDS, self._drain_seconds)
        while self.server_state.connections and loop.time() < end:  # noqa: ASYNC110  # no event
            await asyncio.sleep(LOOK_SECONDS)

    async def _abandon_the_silent(self) -> None:
        closing: set[object] = set()
        while True:
            for connection in list(self.server_state.connections):
                if connection in closing and isinstance(connection, BoundedHttp):
                    connection.abandon()
            closing = {
                connection
                for connection in self.server_state.connections
                if connection.transport.is_closing()
            }
            await asyncio.sleep(GOODBYE_SECONDS)

    async def _end_at(self, deadline: float) -> None:
        await asyncio.sleep(deadline - asyncio.get_running_loop().time())
        if self._engine is not None:
            logger.warning("drain_timeout_seconds are over; what is not done is answered 503")
            await self._engine.stop()

    def _closing(self, app: ASGIApp) -> ASGIApp:
        """Have clients told to close their connections, once the server is told to stop."""

        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_and_close(message: Message) -> None:
                if message["type"] == "http.response.start" and self.should_exit:
                    kept = [
                        (name, value) for name, value in message["headers"] if name != _CLOSE[0]
                    ]
                    message["headers"] = [*kept, _CLOSE]
                await send(message)

            await app(scope, receive, send_and_close)

        return call

    @property
    def hangs(self) -> bool:
        """Whether a batch goes on though the server has stopped."""
        return self._engine is not None and self._engine.lifecycle.fleet.hangs

    def _started(self, engine: Engine) -> None:
        self._engine = engine
        self._watches = [
            asyncio.create_task(self._stop_if_nothing_loads(engine)),
            asyncio.create_task(watch_idleness(engine, self._stop)),
        ]

    async def _stop_if_nothing_loads(self, engine: Engine) -> None:
        if await engine.all_failed():
            logger.error("no model could be loaded; stopping")
            self.exit_code = EXIT_FAILED
            self._stop()

    def _stop(self) -> None:
        self.should_exit = True
        if self._engine is not None:
            self._engine.draining = True


def serve(configuration: Configuration) -> int:
    """Serve until told to stop.

    Args:
        configuration: The instance's settings, and where they came from.

    Returns:
        The exit code.
    """
    settings = configuration.settings
    tail = configure_logging(settings)
    for note in configuration.notes:
        logger.info(note)
    if settings.route is not None:
        logger.info("route: published at %s", settings.route)
    if settings.auth == "none":
        logger.warning("auth is none: whoever reaches %s may use the server", settings.host)
    if settings.disk_swap:
        try:
            SwapFolder(settings.swap_folder).close()
        except OSError as error:
            logger.error("swap_dir: %s", error)
            return EXIT_FAILED
    try:
        sockets = bind_shared(settings.host, settings.port) if settings.reuse_port else None
    except OSError as error:
        logger.error("reuse_port: %s", error.strerror or error)
        return EXIT_FAILED
    allow_many_connections()
    sys.setswitchinterval(SWITCH_SECONDS)
    server = ApplianceServer(settings, tail, configuration)
    try:
        server.config.load()
    except OSError as error:  # ssl.SSLError is one
        logger.error("tls_certificate, tls_key: %s", error)
        return EXIT_FAILED
    with suppress(SystemExit):  # uvicorn's way to say that the port is taken
        server.run(sockets)
    code = server.exit_code if server.started else EXIT_FAILED
    if server.hangs:  # the interpreter would wait for its threads, or trip over them
        logging.shutdown()
        os._exit(code)
    return code
