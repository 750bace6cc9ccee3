# SPDX-License-Identifier: Apache-2.0
"""The door: whether keys are asked for, which are good, and what they were used for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

from appliance.access.attempts import FailedTries
from appliance.access.grants import EVERYTHING, Grant, Token, TokenRequest, digest_of, new_secret
from appliance.access.keyring import Keyring
from appliance.access.quotas import Quotas
from appliance.access.shared_bucket import SharedBucket
from appliance.access.sharing import Allotted, Exchange, Sharing
from appliance.access.usage import UsageLog, Used
from appliance.errors import Conflict, StoreUnavailable, Unauthenticated, UnknownKey
from appliance.logs import CONSOLE_ONLY
from appliance.settings import Settings

if TYPE_CHECKING:
    from appliance.access.store import TokenStore

__all__ = ["NO_STORE", "Door", "is_open"]

logger = logging.getLogger(__name__)

NO_STORE = "no tokens can be kept: set data_dir, a folder, or database_url, a PostgreSQL database"
NOT_REACHED = "The database of tokens cannot be reached now."
STORE_WAIT_SECONDS = 3.0
RETRY_SECONDS = 2.0


def is_open(settings: Settings) -> bool:
    """Whether no key is asked for."""
    if settings.auth == "auto":
        return not settings.api_keys and _is_loopback(settings.host)
    return settings.auth == "none"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class Door:
    """Lets requests in by their keys.

    Args:
        settings: The instance's settings.

    Attributes:
        quotas: What the keys have left.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._is_open = is_open(settings)
        self._has_store = settings.data_dir is not None or settings.database_url is not None
        is_shared = settings.database_url is not None
        self._sharing = Sharing(self._exchange) if is_shared else None
        self.quotas = Quotas(partial(SharedBucket, self._sharing)) if self._sharing else Quotas()
        self._keyring = Keyring(
            [key.get_secret_value() for key in settings.api_keys],
            self._find if self._has_store else None,
        )
        self._tries = FailedTries()
        self._usage = UsageLog(self._write_usage)
        self._store: TokenStore | None = None
        self._opening: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; the store is opened behind it, so that the port need not wait for a database."""
        if self._is_open:
            return
        if self._has_store:
            self._open()
        elif not self._settings.api_keys:
            secret = new_secret()
            self._keyring.add(secret)
            here = " at this server alone, and" if self._settings.reuse_port else ""
            _print_first(secret, f"it is good{here} until the server stops, as {NO_STORE}")

    async def stop(self) -> None:
        """Write down what has not been, and let the store go."""
        for task in (self._opening, self._writing, self._settling):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        await self._keyring.stop()
        if self._sharing is not None:
            await self._sharing.stop()
        if self._store is not None:
            with suppress(StoreUnavailable):
                await self._usage.write()
            await self._store.close()

    async def let_in(self, authorization: str, address: str) -> Grant:
        """Tell what a request may do.

        Args:
            authorization: Its header of that name.
            address: Where it comes from.

        Raises:
            Unauthenticated: It carries no bearer token.
            UnknownKey: It carries one that is not good.
            TooManyAttempts: Its address has had too many bad keys.
            StoreUnavailable: Whether its key is good cannot be told now.
        """
        if self._is_open:
            return EVERYTHING
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthenticated(
                "Missing bearer authentication in header. Send 'Authorization: Bearer YOUR_KEY'."
            )
        digest = digest_of(key.strip())
        self._tries.check(address, digest)
        grant = await self._keyring.grant(digest)
        if grant is None:
            self._tries.failed(address, digest)
            raise UnknownKey("Incorrect API key provided.")
        self._tries.passed(address, digest)
        return grant

    def note(self, grant: Grant, *, requests: int = 0, tokens: int = 0) -> None:
        """Count use of a stored token."""
        if grant.id is not None and (requests or tokens):
            self._usage.add(grant.id, requests=requests, tokens=tokens)

    async def create_token(self, wanted: TokenRequest) -> tuple[Token, str]:
        """Make a token.

        Returns:
            It, and its secret, which is not to be had again.

        Raises:
            Conflict: There is no store.
            StoreUnavailable: It cannot be written now.
        """
        return await (await self._opened()).create(wanted)

    async def list_tokens(self) -> list[Token]:
        """All tokens, the oldest first. Raises as :meth:`create_token` does."""
        return await (await self._opened()).list_all()

    async def token(self, token_id: str) -> Token | None:
        """One token. Raises as :meth:`create_token` does."""
        return await (await self._opened()).token(token_id)

    async def revoke_token(self, token_id: str) -> Token | None:
        """End a token for good, here at once. Raises as :meth:`create_token` does."""
        token = await (await self._opened()).revoke(token_id)
        self._keyring.forget(token_id)
        return token

    async def _find(self, digest: str) -> Grant | None:
        return await (await self._opened()).grant(digest)

    async def _write_usage(self, used: Mapping[str, Used]) -> None:
        await (await self._opened()).record(used)

    async def _exchange(self, wanted: Exchange) -> Allotted:
        if self._store is None:
            raise StoreUnavailable(NOT_REACHED, retry_after=1.0)
        return await self._store.exchange(wanted)

    async def _opened(self) -> TokenStore:
        if not self._has_store:
            raise Conflict(f"{NO_STORE[0].upper()}{NO_STORE[1:]}.")
        if self._store is None:
            # Shielded: the next request will want it even if this one has left.
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._open()), STORE_WAIT_SECONDS)
        if self._store is None:
            raise StoreUnavailable(NOT_REACHED, retry_after=1.0)
        return self._store

    def _open(self) -> asyncio.Task[None]:
        if self._opening is None:
            self._opening = asyncio.create_task(self._open_store())
        return self._opening

    async def _open_store(self) -> None:
        store = await asyncio.to_thread(_import_and_make, self._settings)
        try:
            while True:
                if await self._prepare(store):
                    break
                await asyncio.sleep(RETRY_SECONDS)
        except BaseException:
            await store.close()
            raise
        self._store = store
        self._writing = asyncio.create_task(self._usage.write_for_ever())
        if self._sharing is not None:
            self._settling = asyncio.create_task(self._sharing.settle_for_ever())

    async def _prepare(self, store: TokenStore) -> bool:
        try:
            await store.migrate()
            if not (self._is_open or self._settings.api_keys) and (
                secret := await store.create_first()
            ):
                _print_first(secret, "it is stored and good until it is revoked")
        except StoreUnavailable:  # which the store has logged
            return False
        return True


def _import_and_make(settings: Settings) -> TokenStore:
    # SQLAlchemy takes a good part of a second to import, which the port must not wait for.
    from appliance.access.store import TokenStore

    return TokenStore(settings)


def _print_first(secret: str, note: str) -> None:
    logger.warning(
        "there is no API key yet, so a first one was made, with the scope admin; %s, and is shown"
        " only here: %s",
        note,
        secret,
        extra={CONSOLE_ONLY: True},
    )
