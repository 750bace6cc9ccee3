# SPDX-License-Identifier: Apache-2.0
"""``appliance models``: the models of a server that runs."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import httpx
from rich.text import Text

from appliance.settings import Settings
from appliance.tables import new_table, table_console

__all__ = ["ask_server", "run_models_command"]

TIMEOUT_SECONDS = 600.0
"""Longest wait for an answer; a model is loaded from the hub in the meantime, perhaps."""

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}  # noqa: S104


class CommandFault(Exception):
    """The command cannot do what it was told, for the reason given."""


def run_models_command(parsed: argparse.Namespace, settings: Settings) -> int:
    """Run one of the commands.

    Args:
        parsed: ``action``, and ``name``, ``base_url``, ``api_key`` and ``json`` as given.
        settings: Where the server listens and the keys it takes, unless flags say otherwise.

    Returns:
        The exit code: 0, or 1 if the server does not answer, or refuses.
    """
    try:
        with _client(parsed.base_url, parsed.api_key, settings) as client:
            if parsed.action == "list":
                answer = _ask(client, "GET", "/api/models")
                models = answer["models"]
            else:
                answer = _ask(client, "POST", f"/api/models/{parsed.name}/{parsed.action}")
                models = [answer]
    except CommandFault as fault:
        print(f"appliance: {fault}", file=sys.stderr)
        return 1
    if parsed.json:
        print(json.dumps(answer, indent=2))
    else:
        _print_table(models)
    return 0


def ask_server(
    path: str,
    base_url: str | None,
    api_key: str | None,
    settings: Settings,
    put: dict[str, Any] | None = None,
) -> Any:
    """Ask a running server for an object; ``None`` if it gives none, and why has been printed.

    Args:
        path: Of a management route.
        base_url: The server. Unset: where the settings have it listen.
        api_key: Its key. Unset: the settings' first.
        settings: May have a key.
        put: What to put there, and be answered to. Unset: what is there is asked for.
    """
    try:
        with _client(base_url, api_key, settings) as client:
            return _ask(client, "GET" if put is None else "PUT", path, put)
    except CommandFault as fault:
        print(f"appliance: {fault}", file=sys.stderr)
        return None


def _client(base_url: str | None, api_key: str | None, settings: Settings) -> httpx.Client:
    base = (base_url or _own_url(settings)).rstrip("/").removesuffix("/v1")
    key = api_key or next((k.get_secret_value() for k in settings.api_keys), None)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=base, headers=headers, timeout=TIMEOUT_SECONDS)


def _own_url(settings: Settings) -> str:
    """Where a server with these settings is reached from its own machine."""
    scheme = "http" if settings.tls_certificate is None else "https"
    return f"{scheme}://{_LOOPBACK.get(settings.host, settings.host)}:{settings.port}"


def _ask(client: httpx.Client, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    try:
        answer = client.request(method, path, json=body)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CommandFault(
            f"no server answers at {client.base_url}: {error}; --base-url says where it is"
        ) from None
    try:
        content = answer.json()
    except ValueError:
        content = None
    if isinstance(content, dict):
        if answer.is_success:
            return content
        if isinstance(told := content.get("error"), dict):
            raise CommandFault(str(told.get("message")))
    raise CommandFault(
        f"{answer.url} answers {answer.status_code} in a way that this command does not know;"
        " --base-url says where the server is"
    )


def _print_table(models: list[dict[str, Any]]) -> None:
    table = new_table()
    for heading in ("name", "state", "on"):
        table.add_column(heading, overflow="fold")
    for heading in ("device MiB", "RAM MiB", "disk MiB", "waiting", "requests", "tokens"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("last used", no_wrap=True)
    for model in models:
        held = model["bytes"]
        mebibytes = (sum(held["devices"].values()), held["host"], held["disk"])
        counts = ("queue_depth", "requests_answered", "tokens")
        table.add_row(
            Text(model["name"]),
            Text(model["state"]),
            Text(model["tier"]),
            *(f"{bytes_ / 2**20:.1f}" for bytes_ in mebibytes),
            *(str(model[count]) for count in counts),
            (model["last_used"] or "never")[:19].replace("T", " "),
        )
    console = table_console()
    console.print(table)
    for model in models:
        if model["reason"]:
            console.print(f"{model['name']}: {model['reason']}")
