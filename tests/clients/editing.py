# SPDX-License-Identifier: Apache-2.0
"""Servers that answer as another does, but for an edit of what is well."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np

from compat.conformance import Target, quiet_environment
from tests.conftest import RunningServer
from tests.serving import running

Edit = Callable[[Any], Any]


def turned_round(content: Any) -> Any:
    """Each number of a vector is of the other sign."""
    if isinstance(content, dict):
        return {key: turned_round(value) for key, value in content.items()}
    if isinstance(content, list):
        return [turned_round(value) for value in content]
    if isinstance(content, float):
        return -content
    if isinstance(content, str) and content.endswith("="):
        vector = np.frombuffer(base64.b64decode(content), "<f4")
        return base64.b64encode((-vector).tobytes()).decode()
    return content


def in_other_order(content: Any) -> Any:
    """The first vector comes last; what else an answer says stays."""
    if isinstance(content, list):
        return [*content[1:], *content[:1]] if isinstance(content[0], list) else content
    if "data" in content and "embedding" in content["data"][0]:
        rows = content["data"]
        for row, vector in zip(rows, in_other_order([[r["embedding"]] for r in rows]), strict=True):
            (row["embedding"],) = vector
    elif isinstance(found := content.get("embeddings"), dict):
        content["embeddings"] = {kind: in_other_order(rows) for kind, rows in found.items()}
    elif found:
        content["embeddings"] = in_other_order(found)
    return content


class Proxy(ThreadingHTTPServer):
    request_queue_size = 128  # some cases call many times at once


@contextmanager
def standing_before(server: RunningServer, edit: Edit) -> Iterator[str]:
    """A server that answers as another does, but for an edit of what is well."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            size = int(self.headers.get("content-length") or 0)
            answer = behind.request(
                self.command,
                self.path,
                content=self.rfile.read(size),
                headers={"content-type": "application/json"},
            )
            content = json.dumps(edit(answer.json()) if answer.is_success else answer.json())
            self.send_response(answer.status_code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content.encode())

        do_POST = do_GET  # noqa: N815  # so http.server wants it

    with (
        httpx.Client(base_url=server.url) as behind,
        running(Proxy(("127.0.0.1", 0), Handler)) as url,
    ):
        yield url


@contextmanager
def edited(server: RunningServer, edit: Edit) -> Iterator[Target]:
    """Clients get what is edited, and the comparison what is not."""
    with (
        standing_before(server, edit) as url,
        quiet_environment(),
        Target(url, "fake/model") as target,
    ):
        target.http = httpx.Client(base_url=f"{server.url}/v1")
        yield target
