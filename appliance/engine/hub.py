# SPDX-License-Identifier: Apache-2.0
"""Models from the hub: downloaded once, resumed where they were cut, and checked.

The hub library keeps what it downloads as ``models--OWNER--NAME/blobs/DIGEST``, with links to it
from ``snapshots/COMMIT``; the digest is the one that the hub states for the file. The library goes
on where a connection was cut, and compares sizes; whether the bytes are the right ones it leaves
to us, except where they came by Xet.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from appliance.errors import ModelUnavailable

__all__ = ["commit_at_hand", "commit_of", "download"]

logger = logging.getLogger(__name__)

PAUSES_SECONDS = (1.0, 3.0)
"""Waits between the tries of one load, after faults that may pass."""

CHECKED = ".checked"
"""Beside ``snapshots``: the files that were found to be what the hub states, one a line."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SERVER_FAULT = 500
_UNREACHABLE = "the hub could not be reached"


class _MayPass(ModelUnavailable):
    """The next try may do better."""


def download(
    model: str,
    *,
    revision: str | None,
    token: str | None,
    cache: Path | None,
    wanted: list[str],
    unwanted: list[str],
) -> Path:
    """Have a model's files in the cache, fetching those that are not there.

    Args:
        model: Its name on the hub.
        revision: Commit, branch, tag or ``refs/pr/N``. Unset: the main branch.
        token: Hub token. Unset: the hub library's own.
        cache: Folder for downloads. Unset: the hub library's own.
        wanted: Patterns of the files to have.
        unwanted: Patterns of files that are left alone all the same.

    Returns:
        The snapshot's folder. Its name is the commit.

    Raises:
        ModelUnavailable: With the reason and what to do.
    """
    fetch = partial(
        snapshot_download,
        model,
        revision=revision,
        token=token,
        cache_dir=cache,
        allow_patterns=wanted,
        ignore_patterns=unwanted,
    )
    for pause in PAUSES_SECONDS:
        try:
            return _checked(fetch, revision)
        except _MayPass as fault:
            logger.warning("%s: %s; trying again in %.0f s", model, fault, pause)
            time.sleep(pause)
    return _checked(fetch, revision)


def _checked(fetch: Callable[[], str], revision: str | None) -> Path:
    try:
        folder = Path(fetch())
        _check(folder)
    except (HFValidationError, HfHubHTTPError, httpx.TransportError, OSError) as error:
        told = _MayPass if _may_pass(error) else ModelUnavailable
        raise told(_reason(error, revision)) from error
    return folder


def commit_of(folder: Path) -> str | None:
    """The commit that a folder is the snapshot of, if it is one of the hub cache's."""
    is_snapshot = folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name)
    return folder.name if is_snapshot else None


def commit_at_hand(model: str, revision: str | None, cache: Path | None) -> str | None:
    """The commit that a revision stood for when it was last downloaded. Asks no hub."""
    if revision and _COMMIT.fullmatch(revision):
        return revision
    with suppress(HFValidationError, OSError):
        found = snapshot_download(
            model,
            revision=revision,
            cache_dir=cache,
            local_files_only=True,
            allow_patterns=["config.json", "modules.json"],
        )
        return commit_of(Path(found))
    return None


def _may_pass(error: Exception) -> bool:
    if isinstance(error, LocalEntryNotFoundError):
        return False  # the library has tried; the next request comes back to it
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= _SERVER_FAULT
    # An OSError without a number is the library's own: the file came in another size.
    return isinstance(error, httpx.TransportError) or (
        isinstance(error, OSError) and error.errno is None
    )


def _reason(error: Exception, revision: str | None) -> str:
    at = f" at revision {revision!r}" if revision else ""
    match error:
        case HFValidationError():
            return "it is neither a folder here nor a name that the hub could have"
        case GatedRepoError():
            return "the hub guards it; accept its terms there and set hf_token"
        case RevisionNotFoundError():
            return f"the hub has no revision {revision!r} of it"
        case RepositoryNotFoundError():
            return "the hub has no model of that name, or it is private and hf_token is not set"
        case LocalEntryNotFoundError() | httpx.ConnectError():
            away = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _UNREACHABLE
            return f"{away} and no complete earlier download{at} is at hand"
        case HfHubHTTPError():
            return f"the hub answered: {error}"
        case httpx.TransportError():
            told = str(error) or type(error).__name__
            return f"the connection to the hub was lost during the download{at}: {told}"
    return f"the download{at} failed: {error}"


def _check(folder: Path) -> None:
    """Hold each file against the digest that the hub states for it, unless that was done before.

    Where the cache has no links, as on file systems without any, no digest is at hand.

    Raises:
        ModelUnavailable: A file has another digest. It is removed, so that the next try fetches it.
    """
    record = folder.parents[1] / CHECKED
    known = set(record.read_text(encoding="utf-8").splitlines()) if record.is_file() else set()
    found: list[str] = []
    for path in sorted(folder.rglob("*")):
        if not (path.is_symlink() and path.is_file()):
            continue
        stated, status = path.readlink().name, path.stat()
        line = f"{stated} {status.st_size} {status.st_mtime_ns}"
        if line in known:
            continue
        digest = _digest(path, stated)
        if digest not in (None, stated):
            path.resolve().unlink()
            path.unlink()
            raise _MayPass(
                f"{path.relative_to(folder)} was damaged on the way: its digest is {digest}, and"
                f" the hub states {stated}"
            )
        found.append(line)
    if found:
        with suppress(OSError), record.open("a", encoding="utf-8") as lines:  # or checked each time
            lines.write("\n".join(found) + "\n")


def _digest(path: Path, stated: str) -> str | None:
    """A file's digest of the kind that is stated; ``None`` if that is none we know."""
    with path.open("rb") as file:
        if re.fullmatch(r"[0-9a-f]{64}", stated):  # of a large file: its content alone
            return hashlib.file_digest(file, "sha256").hexdigest()
        if re.fullmatch(r"[0-9a-f]{40}", stated):  # of a small one: as git names it
            blob = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
            return hashlib.file_digest(file, lambda: blob).hexdigest()
    return None
