# SPDX-License-Identifier: Apache-2.0
"""What a key allows, how one is made, and what is kept of it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec

from appliance.errors import InvalidRequest

__all__ = [
    "EVERYTHING",
    "Grant",
    "Scope",
    "Token",
    "TokenRequest",
    "check_token_request",
    "digest_of",
    "new_secret",
    "shown_part",
]

Scope = Literal["embed", "admin"]

_MARK = "eap_"
"""Begins every secret, so that people and scanners of leaked secrets know it for what it is."""

_SHOWN_CHARACTERS = len(_MARK) + 8
"""What is kept in clear to tell tokens apart by: 48 of the 256 bits."""

_MOST = 2**53 - 1
"""Largest integer that every reader of JSON reads as it was written."""

Limit = Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


@dataclass(frozen=True, slots=True)
class Grant:
    """What the bearer of a key may do.

    Attributes:
        id: The stored token's; ``None`` for a key of the settings.
        scopes: ``admin`` includes ``embed``.
        models: Names or aliases of the models that may be used. ``None``: all.
        expires_at: When it ends. ``None``: never.
        requests_per_minute: Quota. ``None``: unlimited.
        tokens_per_minute: Quota, of the tokens that models read. ``None``: unlimited.
    """

    id: str | None
    scopes: frozenset[Scope]
    models: frozenset[str] | None = None
    expires_at: datetime | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has expired."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)

    def allows(self, scope: Scope) -> bool:
        """Whether it opens the routes of a scope."""
        return scope in self.scopes or "admin" in self.scopes

    def allows_model(self, names: Iterable[str]) -> bool:
        """Whether a model, which answers to these names, may be used."""
        return self.models is None or not self.models.isdisjoint(names)


EVERYTHING = Grant(None, frozenset({"admin"}))


class TokenTerms(msgspec.Struct):
    """What a token is made with. Subclasses have the fields, as they check them or do not.

    Attributes:
        name: What its maker calls it.
        scopes: What it opens: ``embed``: ``/v1``; ``admin``: ``/api`` as well.
        models: Names or aliases of the models that may be used; ``None``: all.
        expires_at: When it ends, with a time zone; ``None``: never.
        requests_per_minute: Quota; ``None``: unlimited.
        tokens_per_minute: Quota, of the tokens that models read; ``None``: unlimited.
    """


class TokenRequest(TokenTerms, forbid_unknown_fields=True):
    """What a new token shall be."""

    name: Text
    scopes: Annotated[list[Scope], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["embed"]
    )
    models: Annotated[list[Text], msgspec.Meta(min_length=1, max_length=1000)] | None = None
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None


class Token(TokenTerms):
    """A stored token, as its owners see it.

    Attributes:
        id: Names it in the API and on the command line.
        prefix: How its secret begins.
        state: ``active``, ``expired`` or ``revoked``.
        created_at: When it was made.
        last_used_at: When a request last came with it, give or take a few seconds.
        revoked_at: When it was revoked.
        requests: Requests that it let in.
        tokens: Tokens that models read for it.
    """

    id: str
    name: str
    prefix: str
    state: Literal["active", "expired", "revoked"]
    scopes: list[Scope]
    models: list[str] | None
    expires_at: datetime | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
    requests: int
    tokens: int


def check_token_request(wanted: TokenRequest) -> None:
    """Refuse what its types allow and reason does not.

    Raises:
        InvalidRequest: Naming the field.
    """
    if not wanted.name.isprintable() or not wanted.name.strip():
        raise InvalidRequest(
            "'name' is invalid: it must be text that can be printed.", param="name"
        )
    if wanted.expires_at is not None and wanted.expires_at <= datetime.now(UTC):
        raise InvalidRequest(
            f"'expires_at' is invalid: {wanted.expires_at.isoformat()} has passed.",
            param="expires_at",
        )


def new_secret() -> str:
    """Make a secret of 256 random bits."""
    return _MARK + secrets.token_urlsafe(32)


def shown_part(secret: str) -> str:
    """How a secret begins, for its owner to know it by."""
    return secret[:_SHOWN_CHARACTERS]


def digest_of(key: str) -> str:
    """What is kept of a key, and what keys are compared by.

    One round of SHA-256 does for stored tokens. Slow hashes such as argon2 are for passwords, which
    people choose and others can guess: of 256 random bits nobody can try even a small share, so
    that slowness would cost each request and win nothing. For the same reason no pepper is needed,
    which all replicas would have to share.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
