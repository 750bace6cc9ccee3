# SPDX-License-Identifier: Apache-2.0
"""The database of tokens: SQLite in ``data_dir``, or PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from filelock import AsyncFileLock
from sqlalchemy import (
    URL,
    Connection,
    Row,
    bindparam,
    event,
    func,
    insert,
    make_url,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from appliance.access.grants import Grant, Token, TokenRequest, digest_of, new_secret, shown_part
from appliance.access.schema import tokens
from appliance.access.usage import Used
from appliance.errors import StoreUnavailable
from appliance.settings import Settings

__all__ = ["TokenStore", "database_file"]

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 5
"""Longest wait for the database, be it for a connection, a lock or an answer."""

MIGRATION_SECONDS = 60
"""Longest wait for another process that migrates the same file."""

MIGRATIONS = Path(__file__).parent / "migrations"

_MIGRATION_LOCK = 0x656D6265
"""Key of the advisory lock under which one of several replicas migrates; any number does."""


def database_file(folder: Path) -> Path:
    """The SQLite file, given the setting ``data_dir``."""
    return folder.expanduser() / "appliance.db"


class TokenStore:
    """Reads and writes tokens. Every method raises :class:`StoreUnavailable` where it cannot.

    Args:
        settings: Of which ``database_url`` or ``data_dir`` is set.
    """

    def __init__(self, settings: Settings) -> None:
        self._file: Path | None = None
        self._fault = ""
        if settings.database_url is not None:
            url = make_url(settings.database_url.get_secret_value())
            self._engine = _postgresql(url.set(drivername="postgresql+psycopg"))
        else:
            assert settings.data_dir is not None
            self._file = database_file(settings.data_dir)
            self._engine = _sqlite(self._file)
        self._reader = self._engine.execution_options(sqlite_begin="DEFERRED")

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

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

    async def _upgrade(self) -> None:
        async with self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                await _lock(connection)
            await connection.run_sync(_upgrade)

    async def create(self, wanted: TokenRequest) -> tuple[Token, str]:
        """Make a token; the second value is its secret, which is kept nowhere."""
        async with self._told(), self._engine.begin() as connection:
            return await _insert(connection, wanted)

    async def create_first(self) -> str | None:
        """Make an admin token if no token is good, and tell its secret."""
        now = datetime.now(UTC)
        good = tokens.c.revoked_at.is_(None) & or_(
            tokens.c.expires_at.is_(None), tokens.c.expires_at > now
        )
        async with self._told(), self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                await _lock(connection)
            if await connection.scalar(select(func.count()).where(good)):
                return None
            wanted = TokenRequest(name="first", scopes=["admin"])
            _, secret = await _insert(connection, wanted)
            return secret

    async def list_all(self) -> list[Token]:
        """All tokens, the oldest first."""
        async with self._told(), self._reader.begin() as connection:
            rows = await connection.execute(
                select(tokens).order_by(tokens.c.created_at, tokens.c.id)
            )
            return [_token(row) for row in rows]

    async def token(self, token_id: str) -> Token | None:
        """One token."""
        async with self._told(), self._reader.begin() as connection:
            rows = await connection.execute(select(tokens).where(tokens.c.id == token_id))
            row = rows.one_or_none()
            return None if row is None else _token(row)

    async def grant(self, digest: str) -> Grant | None:
        """What the token whose secret has a digest allows; ``None`` if there is none, or was."""
        async with self._told(), self._reader.begin() as connection:
            rows = await connection.execute(select(tokens).where(tokens.c.digest == digest))
            row = rows.one_or_none()
        if row is None or row.revoked_at is not None:
            return None
        models = None if row.models is None else frozenset(row.models)
        return Grant(
            row.id,
            frozenset(row.scopes),
            models,
            row.expires_at,
            row.requests_per_minute,
            row.tokens_per_minute,
        )

    async def revoke(self, token_id: str) -> Token | None:
        """End a token; one that has been revoked before stays as it was."""
        async with self._told(), self._engine.begin() as connection:
            await connection.execute(
                update(tokens)
                .where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None))
                .values(revoked_at=datetime.now(UTC))
            )
            rows = await connection.execute(select(tokens).where(tokens.c.id == token_id))
            row = rows.one_or_none()
            return None if row is None else _token(row)

    async def record(self, used: Mapping[str, Used]) -> None:
        """Add to the totals of tokens."""
        change = (
            update(tokens)
            .where(tokens.c.id == bindparam("token_id"))
            .values(
                requests=tokens.c.requests + bindparam("more_requests"),
                tokens=tokens.c.tokens + bindparam("more_tokens"),
                last_used_at=bindparam("last"),
            )
        )
        # In one order, so that no two replicas wait for each other's rows.
        values = [
            {
                "token_id": token_id,
                "more_requests": use.requests,
                "more_tokens": use.tokens,
                "last": use.last,
            }
            for token_id, use in sorted(used.items())
        ]
        async with self._told(), self._engine.begin() as connection:
            await connection.execute(change, values)

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
                logger.error("the database of tokens: %s", fault)
            self._fault = fault
            raise StoreUnavailable(
                "The database of tokens cannot be read or written now.", retry_after=1.0
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
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})


def _upgrade(connection: Connection) -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def _insert(connection: AsyncConnection, wanted: TokenRequest) -> tuple[Token, str]:
    secret = new_secret()
    values = {
        "id": f"tok_{secrets.token_hex(8)}",
        "name": wanted.name,
        "digest": digest_of(secret),
        "prefix": shown_part(secret),
        "scopes": sorted(set(wanted.scopes)),
        "models": None if wanted.models is None else list(dict.fromkeys(wanted.models)),
        "expires_at": wanted.expires_at,
        "requests_per_minute": wanted.requests_per_minute,
        "tokens_per_minute": wanted.tokens_per_minute,
        "created_at": datetime.now(UTC),
    }
    rows = await connection.execute(insert(tokens).values(values).returning(tokens))
    return _token(rows.one()), secret


def _token(row: Row[Any]) -> Token:
    fields = row._asdict()
    del fields["digest"]
    state: Literal["active", "expired", "revoked"] = "active"
    if row.revoked_at is not None:
        state = "revoked"
    elif row.expires_at is not None and row.expires_at <= datetime.now(UTC):
        state = "expired"
    return Token(**fields, state=state)
