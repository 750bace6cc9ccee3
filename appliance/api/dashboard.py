# SPDX-License-Identifier: Apache-2.0
"""The pages for people: the dashboard, and each of its plots by itself.

They hold no data, so that they ask for no key; their scripts ask the management routes, with the
key that their reader types.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from litestar import Controller, HttpMethod, Request, Response, route
from litestar.di import NamedDependency
from litestar.params import FromPath

from appliance.assets import Asset, send_asset
from appliance.engine.service import Engine
from appliance.errors import RouteNotFound
from appliance.published import route_path

__all__ = ["DashboardController", "page_policy", "to_dashboard"]

FOLDER = Path(__file__).parents[1] / "dashboard"
PLOTLY = "plotly.min.js"
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_READ = (HttpMethod.GET, HttpMethod.HEAD)
_loading = threading.Lock()


# By itself, as the framework lets no two controllers share a path, and a dialect has this one too.
@route("/", http_method=_READ, sync_to_thread=False, include_in_schema=False)
def to_dashboard(engine: NamedDependency[Engine]) -> Response[bytes]:
    """For who types the address alone."""
    # Relative: right behind gateways that nobody told of, if their path was typed with its slash.
    to = "/dashboard" if route_path(engine.settings.route) else "dashboard"
    return Response(b"", status_code=307, headers={"location": to})


class DashboardController(Controller):
    """The pages and what they consist of."""

    include_in_schema = False

    @route("/dashboard", http_method=_READ)
    async def page(self, request: Request[Any, Any, Any]) -> Response[bytes]:
        """The dashboard."""
        if _has_slash(request):  # from where the page's relative links would lead elsewhere
            return _moved("../dashboard")
        return await _send(request, "index.html", {"content-security-policy": page_policy()})

    @route("/dashboard/plot/{series:str}", http_method=_READ)
    async def plot(
        self,
        request: Request[Any, Any, Any],
        engine: NamedDependency[Engine],
        series: FromPath[str],
    ) -> Response[bytes]:
        """One plot, for other pages to embed."""
        if _has_slash(request):
            return _moved(f"../{quote(series, safe='')}")
        origins = engine.settings.cors_allow_origins
        policy = page_policy(("'self'", *origins) if origins else ("*",))
        return await _send(request, "plot.html", {"content-security-policy": policy})

    @route("/dashboard/static/{name:str}", http_method=_READ)
    async def static(self, request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
        """A script, the style sheet, or Plotly."""
        if name.endswith(".html"):
            raise RouteNotFound(f"Invalid URL ({request.method} {request.url.path}).")
        return await _send(request, name)


def page_policy(ancestors: Collection[str] = ("'self'",)) -> str:
    """The content security policy of a page: nothing but what the server itself sends.

    Args:
        ancestors: Origins whose pages may embed it.
    """
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            f"frame-ancestors {' '.join(ancestors)}",
        )
    )


async def _send(
    request: Request[Any, Any, Any], name: str, headers: dict[str, str] | None = None
) -> Response[bytes]:
    if name not in _files():
        raise RouteNotFound(f"Invalid URL ({request.method} {request.url.path}).")
    # On a thread: Plotly's compression takes a good part of a second, once.
    return await send_asset(request, await asyncio.to_thread(_load, name), headers)


def _load(name: str) -> Asset:
    with _loading:  # else two first readers would both compress Plotly
        return _packed(name)


@cache
def _packed(name: str) -> Asset:
    path = _files()[name]
    return Asset.pack(path.read_bytes(), _TYPES[path.suffix])


@cache
def _files() -> dict[str, Path]:
    """What may be sent, by name; a name from outside is never made a path."""
    found = {path.name: path for path in FOLDER.iterdir() if path.suffix in _TYPES}
    spec = find_spec("plotly")  # which is found without being imported, and that takes long
    for folder in (spec and spec.submodule_search_locations) or ():
        found[PLOTLY] = Path(folder) / "package_data" / PLOTLY
    return found


def _has_slash(request: Request[Any, Any, Any]) -> bool:
    raw: bytes = request.scope["raw_path"]
    return raw.endswith(b"/")


def _moved(to: str) -> Response[bytes]:
    return Response(b"", status_code=308, headers={"location": to})
