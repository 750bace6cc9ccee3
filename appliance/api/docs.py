# SPDX-License-Identifier: Apache-2.0
"""The description of the API, for programs and for people.

Both hold no data, so that they ask for no key. The page is Swagger UI, whose files come in the
wheel of ``offapi``: nothing is fetched from another host.
"""

from __future__ import annotations

import asyncio
import re
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from litestar import Controller, HttpMethod, Request, Response, route
from litestar.di import NamedDependency
from litestar.params import FromPath

from appliance.assets import FOR_EVER, Asset, send_asset
from appliance.errors import RouteNotFound
from appliance.openapi.document import Document

__all__ = ["DocsController"]

_FOLDER = Path(__file__).parents[1] / "docs"
_READ = (HttpMethod.GET, HttpMethod.HEAD)
_JAVASCRIPT = "text/javascript"
_CSS = "text/css"
_HTML = "text/html"
_LINK = re.compile(r'(?<="docs/static/)([\w.-]+)')

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class DocsController(Controller):
    """The document and the page."""

    include_in_schema = False

    @route("/openapi.json", http_method=_READ)
    async def document(
        self, request: Request[Any, Any, Any], document: NamedDependency[Document]
    ) -> Response[bytes]:
        """The API's description in OpenAPI 3.1."""
        return await send_asset(request, await asyncio.to_thread(lambda: document.asset))

    @route("/docs", http_method=_READ)
    async def page(self, request: Request[Any, Any, Any]) -> Response[bytes]:
        """The page."""
        if request.scope["raw_path"].endswith(b"/"):  # whose relative links would lead elsewhere
            return Response(b"", status_code=308, headers={"location": "../docs"})
        page = await asyncio.to_thread(_page)
        return await send_asset(request, page, {"content-security-policy": _POLICY})

    @route("/docs/static/{name:str}", http_method=_READ)
    async def static(self, request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
        """A script or a style sheet."""
        if name not in _files():
            raise RouteNotFound(f"Invalid URL ({request.method} {request.url.path}).")
        asset = await asyncio.to_thread(_file, name)
        is_versioned = request.query_params.get("v") == asset.digest
        return await send_asset(
            request, asset, {"cache-control": FOR_EVER} if is_versioned else None
        )


@cache
def _page() -> Asset:
    """The page, with the digest of each of its files in the file's URL."""
    html = (_FOLDER / "index.html").read_text(encoding="utf-8")
    html = _LINK.sub(lambda link: f"{link[1]}?v={_file(link[1]).digest}", html)
    return Asset.pack(html.encode(), _HTML)


@cache
def _file(name: str) -> Asset:
    path, media_type = _files()[name]
    return Asset.pack(path.read_bytes(), media_type)


@cache
def _files() -> dict[str, tuple[Path, str]]:
    """What may be sent, by name; a name from outside is never made a path."""
    wheel = distribution("offapi")  # not imported: it would read all of its files
    return {
        "docs.js": (_FOLDER / "docs.js", _JAVASCRIPT),
        "swagger-ui.js": (Path(str(wheel.locate_file("offapi/swagger_bundle.js"))), _JAVASCRIPT),
        "swagger-ui.css": (Path(str(wheel.locate_file("offapi/swagger_style.css"))), _CSS),
    }
