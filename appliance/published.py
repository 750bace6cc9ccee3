# SPDX-License-Identifier: Apache-2.0
"""Where a gateway publishes the server: the setting ``route``, and what follows from it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

__all__ = ["check_route", "name_in_the_way", "published", "route_path", "tell_clash"]

_ROUTE = re.compile(
    r"(https?://(\[[0-9a-f:.]+\]|[^/?#\s@:\[\]]+)(:\d+)?)?(/[^?#]*)?", re.IGNORECASE
)
_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[\w.~-]+)*", re.ASCII)
_OWN = re.compile(r"/(v1|v2|dashboard|docs)(/.*)?|/api(/(config|models|tokens)(/.*)?)?")
"""Paths that the server has others of its own under."""


def check_route(route: str) -> str:
    """Pass on where the server is published, without a slash at its end.

    Raises:
        ValueError: It is no such URL or path, or one that the server's own paths begin with.
    """
    if not route or not _ROUTE.fullmatch(route):
        raise ValueError(
            "it must be a URL such as https://ai.example.com/embeddings or a path such as"
            " /embeddings, with no user, password, query or fragment in it"
        )
    _ = urlsplit(route).port  # a ValueError says that there is no such port
    path = route_path(route)
    if not _PATH.fullmatch(path):
        raise ValueError(
            "the parts of its path may be made of letters, digits, '-', '.', '_' and '~' only, and"
            " none may be empty, '.' or '..'"
        )
    if _OWN.fullmatch(path):
        raise ValueError(
            f"the server has paths of its own under {path}, so that it cannot be published there;"
            " name the address that clients put /v1 behind"
        )
    return route.rstrip("/") or "/"


def route_path(route: str | None) -> str:
    """The path under which the server is published; empty at the root of its host."""
    match = _ROUTE.fullmatch(route or "")
    return ((match and match[4]) or "").rstrip("/")


def published(route: str | None, path: str) -> str:
    """Where a path of the server's is found from outside: a URL, or a path if none is known."""
    return path if route is None else route.rstrip("/") + path


def tell_clash(route: str | None, name: str) -> str:
    """Why a name that is in the way cannot be a model's."""
    return (
        f"a model answers to {name!r}, whose path /{name} cannot be told from the route's,"
        f" {route_path(route)}; publish the server elsewhere, or give the model another name"
    )


def name_in_the_way(route: str | None, names: Iterable[str]) -> str | None:
    """The first model's name whose own path cannot be told from the one of the route.

    A gateway may pass on the path that it publishes the server under. Were that ``/embeddings`` and
    a model called so, ``/embeddings/v1/embeddings`` could be either's.
    """
    path = route_path(route)
    if not path:
        return None
    return next(
        (n for n in names if f"/{n}/".startswith(f"{path}/") or f"{path}/".startswith(f"/{n}/")),
        None,
    )
