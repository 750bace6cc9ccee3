# SPDX-License-Identifier: Apache-2.0
"""Who may use the API."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from appliance.errors import Unauthenticated, UnknownKey

__all__ = ["BearerGuard"]


class BearerGuard:
    """A Litestar guard that asks for one of a few bearer tokens.

    Args:
        keys: The tokens that are good. None: every request passes, with a token or without.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def __call__(self, connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        """Let the request pass or raise.

        Raises:
            Unauthenticated: It carries no bearer token.
            UnknownKey: It carries one that is not good.
        """
        if not self._keys:
            return
        scheme, _space, given = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise Unauthenticated(
                "Missing bearer authentication in header. Send 'Authorization: Bearer YOUR_KEY'."
            )
        token = given.strip().encode()
        # Every key is compared, so that the time taken tells nothing of which came close.
        matches = [hmac.compare_digest(token, key) for key in self._keys]
        if not any(matches):
            raise UnknownKey("Incorrect API key provided.")
