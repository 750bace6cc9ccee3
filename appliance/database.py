# SPDX-License-Identifier: Apache-2.0
"""Databases: SQLite in ``data_dir``, or PostgreSQL; opened, migrated, and their faults told.

What is kept in one lies with who keeps it: the tokens under :mod:`appliance.access`, the series
under :mod:`appliance.series`. Each has a schema and steps of its own, with a version of its own, so
that both may share a file, or not.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from filelock import AsyncFileLock
from sqlalchemy import URL, Connection, MetaData, event, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from appliance.errors import StoreUnavailable

__all__ = ["Database", "Schema"]

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5
"""Longest wait for the database, be it for a connection, a lock or an answer."""

MIGRATION_SECONDS = 60
"""Longest wait for another process that migrates the same file."""

_MIGRATION_LOCK = 0x656D6265
"""Key of the advisory lock under which one of several replicas migrates; any number does."""


@dataclass(frozen=True, slots=True)
class Schema:
    """Tables that belong together.

    Attributes:
        what: What they hold, for faults.
        metadata: The tables, as they are after every step.
        steps: Folder with the steps that alembic takes.
        version_table: Where it keeps which of them were taken.
    """

    what: str
    metadata: MetaData
    steps: Path
    version_table: str


class Database:
    """Transactions on one database. Each raises :class:`StoreUnavailable` where it cannot be had.

    Args:
        place: The SQLite file, or the URL of a PostgreSQL.
        schema: What is kept in it.

    Attributes:
        engine: SQLAlchemy's.
    """

    def __init__(self, place: Path | str, schema: Schema) -> None:
        self._schema = schema
        self._fault = ""
        self._file = place if isinstance(place, Path) else None
        if isinstance(place, Path):
            self.engine = _sqlite(place)
        else:
            self.engine = _postgresql(make_url(place).set(drivername="postgresql+psycopg"))
        self._reader = self.engine.execution_options(sqlite_begin="DEFERRED")
        self._single = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()

    async def migrate(self) -> None:
        """Make the tables, or bring them up to date. One process at a time does, others wait."""
        async with self._told(seconds=None):
            if self._file is None:
                await self._upgrade()
                return
            await asyncio.to_thread(self._file.parent.mkdir, parents=True, exist_ok=True)
            # A file is turned to WAL by who has it alone, and SQLite has nobody wait for that.
            lock = AsyncFileLock(f"{self._file}.lock", timeout=MIGRATION_SECONDS, mode=0o600)
            async with lock:
                await asyncio.to_thread(_prepare, self._file)
                await self._upgrade()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads."""
        async with self._told(), self._reader.begin() as connection:
            yield connection

    @asynccontextmanager
    async def at_once(self) -> AsyncIterator[AsyncConnection]:
        """Statements that each stand alone: what one locks is free as soon as it is done."""
        async with self._told(), self._single.connect() as connection:
            yield connection

    @asynccontextmanager
    async def writing(self, *, alone: bool = False) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes.

        Args:
            alone: Wait until nobody else migrates, or writes in this way.
        """
        async with self._told(), self.engine.begin() as connection:
            if alone:
                await _lock(connection)
            yield connection

    async def _upgrade(self) -> None:
        async with self.engine.begin() as connection:
            await _lock(connection)
            await connection.run_sync(_upgrade, self._schema)

    @asynccontextmanager
    async def _told(self, seconds: float | None = TIMEOUT_SECONDS) -> AsyncIterator[None]:
        """Turn what a database may answer into one error; the log has it in full, but once."""
        try:
            async with asyncio.timeout(seconds):
                yield
            self._fault = ""
        except (SQLAlchemyError, sqlite3.Error, CommandError, OSError) as error:
            # A timeout, be it of asyncio or of the lock, is an OSError.
            cause = getattr(error, "orig", None) or error
            fault = " ".join(str(cause).split()) or repr(cause)
            if fault != self._fault:
                logger.error("the database of %s: %s", self._schema.what, fault)
            self._fault = fault
            raise StoreUnavailable(
                f"The database of {self._schema.what} cannot be read or written now.",
                retry_after=1.0,
            ) from None


def _sqlite(file: Path) -> AsyncEngine:
    logging.getLogger("aiosqlite").setLevel(logging.INFO)  # it debugs with every value in clear
    url = URL.create("sqlite+aiosqlite", database=str(file))
    engine = create_async_engine(
        url, hide_parameters=True, connect_args={"timeout": TIMEOUT_SECONDS}
    )

    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin as is said below, not implicitly
        cursor = connection.cursor()
        cursor.execute("PRAGMA synchronous=FULL")  # what was answered outlives a power cut
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes its lock first: a reader that turns into one is refused, not made to wait.
        kind = connection.get_execution_options().get("sqlite_begin", "IMMEDIATE")
        connection.exec_driver_sql(f"BEGIN {kind}")

    return engine


def _postgresql(url: URL) -> AsyncEngine:
    return create_async_engine(
        url,
        hide_parameters=True,
        pool_pre_ping=True,  # a connection may have died with a database that is back by now
        pool_timeout=TIMEOUT_SECONDS,
        connect_args={"connect_timeout": TIMEOUT_SECONDS},
    )


def _prepare(file: Path) -> None:
    """Make the file so that only its owner may read it, and readers do not wait for writers."""
    with suppress(FileExistsError):  # and is not opened: to close it would drop SQLite's locks
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(file, timeout=TIMEOUT_SECONDS)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


async def _lock(connection: AsyncConnection) -> None:
    """Have one transaction at a time go on; in SQLite, a writer is alone as it is."""
    if connection.dialect.name == "postgresql":
        key = {"key": _MIGRATION_LOCK}
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), key)


def _upgrade(connection: Connection, schema: Schema) -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    for option, folder in (
        ("script_location", Path(__file__).parent / "migrations"),
        ("version_locations", schema.steps),
    ):
        config.set_main_option(option, str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")  # which no folder's name has
    config.attributes["connection"] = connection
    config.attributes["metadata"] = schema.metadata
    config.attributes["version_table"] = schema.version_table
    command.upgrade(config, "head")
