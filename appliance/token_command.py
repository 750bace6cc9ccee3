# SPDX-License-Identifier: Apache-2.0
"""``appliance token``: tokens made, listed and revoked in the store itself, server or no server."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec
from rich.text import Text

from appliance.access.door import NO_STORE, is_open
from appliance.access.grants import Token, TokenRequest, check_token_request
from appliance.access.store import TokenStore
from appliance.errors import ApplianceError, TokenNotFound
from appliance.settings import Settings
from appliance.tables import new_table, table_console

__all__ = ["run_token_command"]

Result = TypeVar("Result")

EXIT_FAILED = 1
EXIT_BAD_FLAGS = 2
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}


def run_token_command(parsed: argparse.Namespace, settings: Settings) -> int:
    """Run one of the commands.

    Args:
        parsed: ``action`` and the flags of :func:`appliance.cli` for it.
        settings: Where the store is.

    Returns:
        The exit code: 0, 1 if the store does not answer or has no such token, 2 for bad flags.
    """
    if settings.data_dir is None and settings.database_url is None:
        return _fail(NO_STORE, EXIT_BAD_FLAGS)
    try:
        if parsed.action == "create":
            return _create(parsed, settings)
        if parsed.action == "revoke":
            return _revoke(parsed, settings)
        return _list(parsed, settings)
    except ApplianceError as error:
        return _fail(error.message, EXIT_BAD_FLAGS if error.status == 400 else EXIT_FAILED)


def _create(parsed: argparse.Namespace, settings: Settings) -> int:
    fields = {
        "name": parsed.name,
        "scopes": parsed.scope or ["embed"],
        "models": parsed.model or None,
        "requests_per_minute": parsed.requests_per_minute,
        "tokens_per_minute": parsed.tokens_per_minute,
    }
    try:
        wanted = msgspec.convert(fields, TokenRequest)
        if parsed.expires_in is not None:
            wanted.expires_at = _moment(parsed.expires_in)
    except (msgspec.ValidationError, ValueError) as error:
        # msgspec ends with the field's path; here it is a flag.
        message, _, path = str(error).partition(" - at `$.")
        field = re.split(r"[.`\[]", path)[0].replace("_", "-").removesuffix("s")
        return _fail(f"{field}: {message}" if field else message, EXIT_BAD_FLAGS)
    check_token_request(wanted)
    token, secret = _with_store(settings, lambda store: store.create(wanted))
    if parsed.json:
        print(json.dumps({"secret": secret, "token": msgspec.to_builtins(token)}, indent=2))
    else:
        print(secret)
        print(
            f"appliance: {token.id} ({token.name!r}); its secret is not to be had again",
            file=sys.stderr,
        )
    if is_open(settings):
        print(
            "appliance: a server with these settings asks for no token; with auth=required it does",
            file=sys.stderr,
        )
    return 0


def _list(parsed: argparse.Namespace, settings: Settings) -> int:
    found = _with_store(settings, lambda store: store.list_all())
    if parsed.json:
        print(json.dumps({"tokens": msgspec.to_builtins(found)}, indent=2))
    else:
        _print_table(found)
    return 0


def _revoke(parsed: argparse.Namespace, settings: Settings) -> int:
    token = _with_store(settings, lambda store: store.revoke(parsed.id))
    if token is None:
        raise TokenNotFound(f"there is no token {parsed.id!r}; `appliance token list` shows all")
    if parsed.json:
        print(json.dumps(msgspec.to_builtins(token), indent=2))
    else:
        print(f"{token.id} ({token.name!r}) is revoked")
    return 0


def _with_store(settings: Settings, use: Callable[[TokenStore], Awaitable[Result]]) -> Result:
    async def run() -> Result:
        store = TokenStore(settings)
        try:
            await store.migrate()
            return await use(store)
        finally:
            await store.close()

    return asyncio.run(run())


def _moment(duration: str) -> datetime:
    parts = re.fullmatch(r"(\d{1,9})([mhd])", duration)
    if parts is None:
        raise ValueError(
            f"--expires-in is a number with m, h or d for minutes, hours or days, such as 30d,"
            f" not {duration!r}"
        )
    try:
        return datetime.now(UTC) + timedelta(seconds=int(parts[1]) * _SECONDS[parts[2]])
    except OverflowError:
        raise ValueError(f"--expires-in is too long: {duration!r}") from None


def _fail(message: str, code: int) -> int:
    print(f"appliance: {message}", file=sys.stderr)
    return code


def _print_table(tokens: list[Token]) -> None:
    table = new_table()
    for heading in ("id", "name", "begins", "state", "scopes", "models"):
        table.add_column(heading, overflow="fold")
    for heading in ("requests/min", "tokens/min", "requests", "tokens"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("expires", "last used"):
        table.add_column(heading, no_wrap=True)
    for token in tokens:
        table.add_row(
            token.id,
            Text(token.name),
            Text(token.prefix),
            token.state,
            ", ".join(token.scopes),
            Text("all" if token.models is None else ", ".join(token.models)),
            *(_limit(limit) for limit in (token.requests_per_minute, token.tokens_per_minute)),
            str(token.requests),
            str(token.tokens),
            _time(token.expires_at),
            _time(token.last_used_at),
        )
    table_console().print(table)


def _limit(limit: int | None) -> str:
    return "-" if limit is None else str(limit)


def _time(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"
