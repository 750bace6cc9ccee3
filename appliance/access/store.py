# SPDX-License-Identifier: Apache-2.0
"""The database of tokens: SQLite in ``data_dir``, or PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import ColumnElement, Row, bindparam, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from appliance.access.grants import Grant, Token, TokenRequest, digest_of, new_secret, shown_part
from appliance.access.quota_rows import exchange
from appliance.access.schema import metadata, tokens
from appliance.access.sharing import Allotted, Exchange
from appliance.access.usage import Used
from appliance.database import Database, Schema
from appliance.database_file import database_file
from appliance.settings import Settings

__all__ = ["SCHEMA", "TokenStore"]

SCHEMA = Schema(
    what="tokens",
    metadata=metadata,
    steps=Path(__file__).parent / "migrations" / "versions",
    version_table="embeddings_appliance_version",
)


class TokenStore:
    """Reads and writes tokens. Every method raises :class:`StoreUnavailable` where it cannot.

    Args:
        settings: Of which ``database_url`` or ``data_dir`` is set.

    Attributes:
        database: Where they are.
    """

    def __init__(self, settings: Settings) -> None:
        place: Path | str
        if settings.database_url is not None:
            place = settings.database_url.get_secret_value()
        else:
            assert settings.data_dir is not None
            place = database_file(settings.data_dir)
        self.database = Database(place, SCHEMA)

    async def close(self) -> None:
        """Close every connection."""
        await self.database.close()

    async def migrate(self) -> None:
        """Make the tables, or bring them up to date."""
        await self.database.migrate()

    async def create(self, wanted: TokenRequest) -> tuple[Token, str]:
        """Make a token; the second value is its secret, which is kept nowhere."""
        async with self.database.writing() as connection:
            return await _insert(connection, wanted)

    async def create_first(self) -> str | None:
        """Make an admin token if no token is good, and tell its secret."""
        async with self.database.writing(alone=True) as connection:
            if await connection.scalar(select(func.count()).where(_good())):
                return None
            wanted = TokenRequest(name="first", scopes=["admin"])
            _, secret = await _insert(connection, wanted)
            return secret

    async def list_all(self) -> list[Token]:
        """All tokens, the oldest first."""
        async with self.database.reading() as connection:
            rows = await connection.execute(
                select(tokens).order_by(tokens.c.created_at, tokens.c.id)
            )
            return [_token(row) for row in rows]

    async def token(self, token_id: str) -> Token | None:
        """One token."""
        async with self.database.reading() as connection:
            rows = await connection.execute(select(tokens).where(tokens.c.id == token_id))
            row = rows.one_or_none()
            return None if row is None else _token(row)

    async def grant(self, digest: str) -> Grant | None:
        """What the token whose secret has a digest allows; ``None`` if there is none, or was.

        The database leaves out tokens that are not good: a row that came here would be read, and
        the time for that would tell a key that was good once from one that never was.
        """
        async with self.database.reading() as connection:
            rows = await connection.execute(
                select(tokens).where(tokens.c.digest == digest, _good())
            )
            row = rows.one_or_none()
        if row is None:
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
        async with self.database.writing() as connection:
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
        async with self.database.writing() as connection:
            await connection.execute(change, values)

    async def exchange(self, wanted: Exchange) -> Allotted:
        """Take from a quota that replicas share, and give back; only in a PostgreSQL."""
        return await exchange(self.database, wanted)


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


def _good() -> ColumnElement[bool]:
    """That a token is neither revoked nor expired."""
    return tokens.c.revoked_at.is_(None) & or_(
        tokens.c.expires_at.is_(None), tokens.c.expires_at > datetime.now(UTC)
    )


def _token(row: Row[Any]) -> Token:
    fields = row._asdict()
    del fields["digest"]
    state: Literal["active", "expired", "revoked"] = "active"
    if row.revoked_at is not None:
        state = "revoked"
    elif row.expires_at is not None and row.expires_at <= datetime.now(UTC):
        state = "expired"
    return Token(**fields, state=state)
