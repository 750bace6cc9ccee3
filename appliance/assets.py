# SPDX-License-Identifier: Apache-2.0
"""Files that browsers fetch: compressed, and sent once for as long as they stay what they are."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from litestar import Request, Response

__all__ = ["FOR_EVER", "Asset", "send_asset"]

FOR_EVER = "public, max-age=31536000, immutable"
"""Cache control of a URL that has the digest of its content in it."""

_HEADERS = {
    "cache-control": "no-cache",  # asked for anew each time, and mostly answered 304
    "referrer-policy": "no-referrer",
    "vary": "accept-encoding",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is sent.

    Attributes:
        body: Its bytes, compressed by gzip.
        media_type: Its type.
        digest: Of its bytes; the ``ETag``.
    """

    body: bytes
    media_type: str
    digest: str

    @classmethod
    def pack(cls, body: bytes, media_type: str) -> Asset:
        """Compress a file; takes some 30 ms a megabyte."""
        digest = hashlib.sha256(body).hexdigest()[:20]
        return cls(gzip.compress(body, mtime=0), media_type, digest)


async def send_asset(
    request: Request[Any, Any, Any], asset: Asset, headers: Mapping[str, str] | None = None
) -> Response[bytes]:
    """Answer with a file, or say that the client has it."""
    zipped = "gzip" in request.headers.get("accept-encoding", "")
    etag = f'"{asset.digest}{"-gzip" if zipped else ""}"'
    sent = {**_HEADERS, **(headers or {}), "etag": etag}
    known = request.headers.get("if-none-match", "").split(",")
    if etag in (tag.strip().removeprefix("W/") for tag in known):
        return Response(b"", status_code=304, headers=sent, media_type=asset.media_type)
    if zipped:
        sent["content-encoding"] = "gzip"
        return Response(asset.body, headers=sent, media_type=asset.media_type)
    body = await asyncio.to_thread(gzip.decompress, asset.body)
    return Response(body, headers=sent, media_type=asset.media_type)
