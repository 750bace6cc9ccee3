# SPDX-License-Identifier: Apache-2.0
"""Tokens made, listed and revoked."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Controller, Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from appliance.access.door import Door
from appliance.access.grants import Token, TokenRequest, check_token_request
from appliance.bodies import parse_body, read_json_body
from appliance.engine.service import Engine
from appliance.errors import Conflict, TokenNotFound
from appliance.openapi.operations import operation

__all__ = ["TokensController"]

MOST_BODY_BYTES = 300_000
"""More than the names of a thousand models take."""

_decoder = msgspec.json.Decoder(TokenRequest)


class TokenList(msgspec.Struct):
    """Answer of ``GET /api/tokens``.

    Attributes:
        tokens: The tokens, the oldest first.
    """

    tokens: list[Token]


class NewToken(msgspec.Struct):
    """Answer of ``POST /api/tokens``.

    Attributes:
        secret: What to send as the bearer token. It is kept nowhere and never told again.
        token: As it is listed.
    """

    secret: str
    token: Token


class TokensController(Controller):
    """The stored tokens; those of the setting ``api_keys`` are not among them."""

    path = "/api/tokens"
    tags = ("Tokens",)

    @get("/", operation_class=operation(Conflict))
    async def list_tokens(self, door: NamedDependency[Door]) -> Response[TokenList]:
        """List the tokens, the oldest first."""
        return Response(TokenList(await door.list_tokens()))

    @post(
        "/",
        status_code=201,
        operation_class=operation(
            Conflict,
            body=TokenRequest,
            example={"name": "ci", "requests_per_minute": 60},
            headers=("location",),
        ),
    )
    async def create(
        self,
        request: Request[Any, Any, Any],
        door: NamedDependency[Door],
        engine: NamedDependency[Engine],
    ) -> Response[NewToken]:
        """Make a token."""
        seconds = engine.settings.request_timeout_seconds
        wanted = parse_body(await read_json_body(request, seconds, MOST_BODY_BYTES), _decoder)
        check_token_request(wanted)
        token, secret = await door.create_token(wanted)
        headers = {"location": f"/api/tokens/{token.id}", "cache-control": "no-store"}
        return Response(NewToken(secret, token), status_code=201, headers=headers)

    @get("/{token_id:str}", operation_class=operation(Conflict, TokenNotFound))
    async def one_token(
        self, door: NamedDependency[Door], token_id: FromPath[str]
    ) -> Response[Token]:
        """Describe one token."""
        return Response(_found(await door.token(token_id), token_id))

    @delete(
        "/{token_id:str}",
        status_code=200,
        operation_class=operation(Conflict, TokenNotFound),
    )
    async def revoke(self, door: NamedDependency[Door], token_id: FromPath[str]) -> Response[Token]:
        """Revoke a token: it stays listed, and opens nothing any more."""
        return Response(_found(await door.revoke_token(token_id), token_id))


def _found(token: Token | None, token_id: str) -> Token:
    if token is None:
        raise TokenNotFound(f"There is no token {token_id!r}.")
    return token
