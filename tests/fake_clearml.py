# SPDX-License-Identifier: Apache-2.0
"""A ClearML server on loopback: as much of its API and its file server as a download needs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import jwt

from tests.serving import running

__all__ = ["ACCESS_KEY", "SECRET_KEY", "FakeClearml", "run_clearml"]

ACCESS_KEY = "ACCESS_OF_THE_OWNER"
SECRET_KEY = "secret_of_the_owner"
TOKEN = jwt.encode({"api_version": "2.23", "server_version": "2.1.0"}, "k" * 32)


@dataclass
class FakeClearml:
    """A server that runs.

    Attributes:
        url: Of its API and of its files.
        uris: Where each model's files are, by the model's id.
        files: Content by path.
        asked: Method and path of each request so far.
    """

    url: str
    uris: dict[str, str | None] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def add(self, identifier: str, name: str, content: bytes) -> None:
        """Have a model of one file."""
        self.files[f"/models/{identifier}/{name}"] = content
        self.uris[identifier] = f"{self.url}/models/{identifier}/{name}"

    def environment(self, secret: str = SECRET_KEY) -> dict[str, str]:
        """The variables that lead ClearML's SDK here."""
        return {
            "CLEARML_API_HOST": self.url,
            "CLEARML_WEB_HOST": self.url,
            "CLEARML_FILES_HOST": self.url,
            "CLEARML_API_ACCESS_KEY": ACCESS_KEY,
            "CLEARML_API_SECRET_KEY": secret,
            "NO_PROXY": "127.0.0.1",
        }


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    clearml: FakeClearml
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.clearml.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        given = self.headers.get("authorization", "")
        if path.endswith("auth.login"):
            keys = base64.b64encode(f"{ACCESS_KEY}:{SECRET_KEY}".encode()).decode()
            if given == f"Basic {keys}":
                self._answer(200, "OK", {"token": TOKEN})
            else:
                self._answer(401, "Unauthorized (invalid credentials)", {})
        elif given != f"Bearer {TOKEN}":
            self._answer(401, "Unauthorized", {})
        elif path.endswith("models.get_by_id"):
            self._answer_about(json.loads(body)["model"])
        elif path in self.clearml.files:
            self._send(200, self.clearml.files[path])
        else:
            self._send(404, b"")

    def _answer_about(self, identifier: str) -> None:
        if identifier in self.clearml.uris:
            uri = self.clearml.uris[identifier]
            about = {"id": identifier, "name": "the model's name", "uri": uri}
            self._answer(200, "OK", {"model": about})
        else:
            self._answer(400, f"Invalid model id: id={identifier}", {}, subcode=201)

    def _answer(self, status: int, message: str, data: dict[str, Any], subcode: int = 0) -> None:
        meta = {"result_code": status, "result_subcode": subcode, "result_msg": message}
        self._send(status, json.dumps({"meta": meta, "data": data}).encode())

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as its base class
        """Keep the console quiet."""


@contextmanager
def run_clearml() -> Iterator[FakeClearml]:
    """Run a server until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with running(server) as url:
        clearml = FakeClearml(url)
        server.RequestHandlerClass = type("BoundHandler", (Handler,), {"clearml": clearml})
        yield clearml
