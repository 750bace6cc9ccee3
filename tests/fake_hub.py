# SPDX-License-Identifier: Apache-2.0
"""A model hub on loopback: as much of the Hugging Face Hub's HTTP API as a download needs."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.serving import running

__all__ = ["FakeHub", "FakeRepo", "etag", "run_hub", "use_endpoint"]


LARGE = (".safetensors", ".bin", ".h5", ".msgpack", ".onnx")
"""Files that are kept beside git."""


@dataclass(frozen=True)
class FakeRepo:
    """One repository.

    Attributes:
        revisions: Folder of each branch, tag and ``refs/pr/N``.
        token: The bearer token that may see it. None: it is public.
        gated: Whether its files, though not its description, ask for that token.
    """

    revisions: Mapping[str, Path]
    token: str | None = None
    gated: bool = False

    def commit(self, revision: str) -> str:
        """The commit that a revision stands for."""
        return hashlib.sha1(str(self.revisions[revision]).encode()).hexdigest()

    def resolve(self, revision: str) -> tuple[str, Path] | None:
        """Commit and folder of a revision or a commit."""
        for name, folder in self.revisions.items():
            if revision in (name, self.commit(name)):
                return self.commit(name), folder
        return None


@dataclass
class FakeHub:
    """A hub that runs.

    Attributes:
        url: What ``HF_ENDPOINT`` has to be.
        repos: By name.
        asked: Method and path of each request so far.
        ranges: ``Range`` of each download of a file so far, by the file's name.
        broken: Whether every request is answered with 500.
        cuts: By the file's name, the bytes after which each of its next downloads is cut off.
        damaged: By the file's name, how many of its next downloads have other bytes.
        failing: Likewise, how many are answered with 500.
    """

    url: str
    repos: dict[str, FakeRepo]
    asked: list[str] = field(default_factory=list)
    ranges: dict[str, list[str | None]] = field(default_factory=lambda: defaultdict(list))
    broken: bool = False
    cuts: dict[str, list[int]] = field(default_factory=dict)
    damaged: dict[str, int] = field(default_factory=dict)
    failing: dict[str, int] = field(default_factory=dict)

    def reset(self) -> None:
        """Forget what was asked, and be well."""
        self.asked.clear()
        self.ranges.clear()
        self.broken = False
        self.cuts.clear()
        self.damaged.clear()
        self.failing.clear()


class Refused(Exception):
    """An answer with an error code in the hub's own words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        try:
            if path.startswith("/api/models/"):
                self._answer_about(path.removeprefix("/api/models/"))
            else:
                self._answer_file(path.removeprefix("/"))
        except Refused as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.message}
            self._send(error.status, json.dumps({"error": error.message}).encode(), headers)

    def _repo(self, name: str, *, file: bool) -> FakeRepo:
        if self.hub.broken:
            raise Refused(500, "", "Internal Error")
        repo = self.hub.repos.get(name)
        scheme, _, given = self.headers.get("authorization", "").partition(" ")
        known = {each.token for each in self.hub.repos.values()} - {None}
        if scheme and given not in known:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        if repo is None or (repo.token and not repo.gated and given != repo.token):
            status = 404 if scheme else 401
            raise Refused(status, "RepoNotFound", "Invalid username or password.")
        if repo.gated and file and given != repo.token:
            raise Refused(403 if scheme else 401, "GatedRepo", f"Access to {name} is restricted.")
        return repo

    def _answer_about(self, rest: str) -> None:
        name, what, revision = _split(rest, "revision", "tree")
        commit, folder = self._resolve(self._repo(name, file=False), revision or "main")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        about: Any = {
            "id": name,
            "sha": commit,
            "siblings": [{"rfilename": str(path.relative_to(folder))} for path in files],
        }
        if what == "tree":
            about = [
                {
                    "type": "file",
                    "path": str(path.relative_to(folder)),
                    "size": path.stat().st_size,
                    **_identity(path),
                }
                for path in files
            ]
        self._send(200, json.dumps(about).encode(), {"X-Repo-Commit": commit})

    def _answer_file(self, rest: str) -> None:
        name, _, where = _split(rest, "resolve")
        repo = self._repo(name, file=True)
        # A revision may have slashes in it: the longest that fits is meant.
        parts = where.split("/")
        for end in range(len(parts) - 1, 0, -1):
            if found := repo.resolve("/".join(parts[:end])):
                commit, folder = found
                path = folder / "/".join(parts[end:])
                break
        else:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {parts[0]}")
        if not path.is_file():
            raise Refused(404, "EntryNotFound", "Entry not found")
        content = path.read_bytes()
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-Size": str(len(content)),
            "ETag": f'"{etag(path)}"',
            "Accept-Ranges": "bytes",
        }
        if self.command == "HEAD":
            self._send(200, content, headers)
        else:
            self._send_file(path.name, content, headers)

    def _send_file(self, name: str, content: bytes, headers: dict[str, str]) -> None:
        """Send a file or the rest of one, with whatever the hub is to do to it."""
        asked = self.headers.get("range")
        self.hub.ranges[name].append(asked)
        if self.hub.failing.get(name):
            self.hub.failing[name] -= 1
            raise Refused(500, "", "Internal Error")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.hub.damaged.get(name):
            self.hub.damaged[name] -= 1
            content = bytes([content[0] ^ 1]) + content[1:]
        cuts = self.hub.cuts.get(name)
        self._send(206 if asked else 200, content[start:], headers, cuts.pop(0) if cuts else None)

    def _resolve(self, repo: FakeRepo, revision: str) -> tuple[str, Path]:
        found = repo.resolve(revision)
        if found is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def _send(
        self,
        status: int,
        content: bytes,
        headers: Mapping[str, str],
        cut_after: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut_after])
        if cut_after is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as its base class
        """Keep the console quiet."""


def etag(path: Path) -> str:
    """What the hub states for a file: of weights SHA-256, of all else what git calls them."""
    content = path.read_bytes()
    if path.suffix in LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _identity(path: Path) -> dict[str, Any]:
    if path.suffix in LARGE:
        size = path.stat().st_size
        return {"oid": "0" * 40, "lfs": {"oid": etag(path), "size": size, "pointerSize": 134}}
    return {"oid": etag(path)}


def _split(path: str, *words: str) -> tuple[str, str, str]:
    """``owner/name``, the word that follows, and the rest."""
    for word in words:
        name, found, rest = path.partition(f"/{word}/")
        if found:
            return name, word, rest
    return path, "", ""


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """What ``HF_ENDPOINT`` does, which is read when the library is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{url}{template[1]}{template[2]}"
    )
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()  # the next one reads the line above


@contextmanager
def run_hub(**repos: FakeRepo) -> Iterator[FakeHub]:
    """Run a hub until the block ends. In names, ``__`` stands for the slash."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with running(server) as url:
        hub = FakeHub(url, {name.replace("__", "/"): repo for name, repo in repos.items()})
        server.RequestHandlerClass = type("BoundHandler", (Handler,), {"hub": hub})
        yield hub
