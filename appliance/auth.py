# SPDX-License-Identifier: Apache-2.0
"""What the door means to a request: who comes, what they may, and what they have left."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Self

from litestar.connection import ASGIConnection
from litestar.datastructures import MutableScopeHeaders
from litestar.handlers import BaseRouteHandler
from litestar.types import Message, Scope

from appliance.access.door import Door
from appliance.access.grants import Grant
from appliance.access.grants import Scope as GrantScope
from appliance.access.quotas import Quota
from appliance.errors import ModelNotAllowed, PermissionDenied

__all__ = ["Guard", "Visit", "add_quota_headers", "visit_of"]

_STATE = "visit"


class Spending:
    """Tokens of one request: counted as a guess when the block begins, rightly when it ends.

    Work that fails costs no tokens; its request is counted all the same.

    Args:
        visit: The request's.
        estimate: Makes the guess; only asked where there is a quota.

    Attributes:
        tokens: That models read for it; 0 until that is known.

    Raises:
        TokensExceeded: The quota does not have as many.
    """

    __slots__ = ("_estimate", "_guess", "_visit", "tokens")

    def __init__(self, visit: Visit, estimate: Callable[[], int]) -> None:
        self._visit = visit
        self._estimate = estimate
        self._guess = 0
        self.tokens = 0

    async def __aenter__(self) -> Self:
        """Take the guess. Waits for nothing where there is no quota."""
        quota = self._visit.quota
        if quota is not None:
            guess = self._estimate()
            await quota.take_tokens(guess)
            self._guess = guess
        return self

    async def __aexit__(self, *fault: object) -> None:
        """Count what it really took. Never waits."""
        visit = self._visit
        if visit.quota is not None:
            visit.quota.correct_tokens(self.tokens - self._guess)
        visit.door.note(visit.grant, tokens=self.tokens)


class Visit:
    """One request that was let in.

    Args:
        door: The door.
        grant: What its key allows.
        quota: What its key has left, if there is a limit.

    Attributes:
        door: The door.
        grant: What its key allows.
        quota: What its key has left, if there is a limit.
    """

    def __init__(self, door: Door, grant: Grant, quota: Quota | None) -> None:
        self.door = door
        self.grant = grant
        self.quota = quota

    def may_use(self, model: Collection[str]) -> bool:
        """Whether its key is good for a model that answers to these names."""
        return self.grant.allows_model(model)

    def check_model(self, model: Collection[str]) -> None:
        """Refuse a model that its key is not good for.

        Args:
            model: The names that the model answers to, its own first.

        Raises:
            ModelNotAllowed: It is not.
        """
        if not self.may_use(model):
            name = next(iter(model))
            raise ModelNotAllowed(
                f"Your API key does not have access to the model '{name}'.", param="model"
            )

    def spending(self, estimate: Callable[[], int]) -> Spending:
        """Count tokens: a guess before the work, what it really took after it.

        Args:
            estimate: Makes the guess; only asked where there is a quota.
        """
        return Spending(self, estimate)


class Guard:
    """A Litestar guard that lets in who has a key with the right scope.

    The door is the application's: Litestar copies its guards, and all that they hold.

    Args:
        scope: What the routes behind it ask for.
    """

    def __init__(self, scope: GrantScope) -> None:
        self._scope = scope

    async def __call__(
        self, connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler
    ) -> None:
        """Let the request pass or raise.

        Raises:
            Unauthenticated: It carries no bearer token.
            UnknownKey: It carries one that is not good, be it unknown, expired or revoked.
            PermissionDenied: It carries one that lacks the scope.
            RequestsExceeded: Its key has had too many requests within a minute.
            TooManyAttempts: Its address has had too many bad keys within a minute.
            StoreUnavailable: Whether its key is good cannot be told now.
        """
        door: Door = connection.app.state.door
        authorization = connection.headers.get("authorization", "")
        address = connection.client.host if connection.client else ""
        grant = await door.let_in(authorization, address)
        if not grant.allows(self._scope):
            raise PermissionDenied(
                f"Your API key lacks the scope '{self._scope}', which this route asks for."
            )
        works = self._scope == "embed" and connection.scope.get("method") == "POST"
        quota = door.quotas.of(grant) if works else None
        connection.scope["state"][_STATE] = Visit(door, grant, quota)
        if quota is not None:
            await quota.take_request()
        door.note(grant, requests=1)


def visit_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Visit:
    """The visit of a request that a guard let in."""
    visit: Visit = connection.scope["state"][_STATE]
    return visit


async def add_quota_headers(message: Message, scope: Scope) -> None:
    """A Litestar ``before_send`` hook that tells what a key has left, whatever the answer."""
    visit: Visit | None = scope["state"].get(_STATE)
    if message["type"] == "http.response.start" and visit is not None and visit.quota is not None:
        headers = MutableScopeHeaders.from_message(message)
        for name, value in visit.quota.headers().items():
            headers[name] = value
