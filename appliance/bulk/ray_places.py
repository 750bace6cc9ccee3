# SPDX-License-Identifier: Apache-2.0
"""Files by their path or URI, the same on every machine of a cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from appliance.bulk.faults import CommandFault

__all__ = ["Place", "find_place"]


@dataclass(frozen=True, slots=True)
class Place:
    """A file or a folder.

    Attributes:
        given: Its path or URI as it was typed, for messages; a path is made absolute.
        system: The file system that it is on.
        path: Its path there.
    """

    given: str
    system: fs.FileSystem
    path: str

    @property
    def local(self) -> Path | None:
        """Its path, if it is on a disk of this machine, or one that is mounted here."""
        return Path(self.path) if isinstance(self.system, fs.LocalFileSystem) else None


@cache
def find_place(given: str) -> Place:
    """Find out which file system a path or a URI is on.

    Raises:
        CommandFault: There is no such file system, or what it needs is not installed.
    """
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", given):
        absolute = str(Path(given).absolute())
        return Place(absolute, fs.LocalFileSystem(), absolute)
    if urlsplit(given).password:
        raise CommandFault(
            "Ray shows the command line to all who see its dashboard; give the secret of the URI"
            " by the environment instead"
        )
    try:
        return Place(given, *fs.FileSystem.from_uri(given))
    except (pa.ArrowException, OSError) as error:
        if "Unrecognized filesystem" not in str(error):
            raise CommandFault(f"{given} cannot be read: {error}") from None
    return _find_by_fsspec(given)


def _find_by_fsspec(given: str) -> Place:
    """As :func:`find_place`, for what Arrow does not know itself."""
    # Not at the top: few need it.
    from fsspec import core  # type: ignore[import-untyped]

    try:
        system, path = core.url_to_fs(given)
    except (ImportError, ValueError) as error:
        raise CommandFault(f"{given} cannot be read: {error}") from None
    return Place(given, fs.PyFileSystem(fs.FSSpecHandler(system)), path)
