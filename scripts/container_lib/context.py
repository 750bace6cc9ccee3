# SPDX-License-Identifier: Apache-2.0
"""The files that a build may copy: the build context without what ``.dockerignore`` leaves out."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

__all__ = ["copy_in", "files", "is_ignored"]


def files(context: Path) -> Iterator[Path]:
    """Files of the context, relative to it."""
    patterns = (context / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line.strip() for line in patterns if line.strip() and not line.startswith("#")]
    return _below(context, PurePosixPath(), rules)


def _below(context: Path, folder: PurePosixPath, rules: list[str]) -> Iterator[Path]:
    for entry in sorted((context / folder).iterdir()):
        path = folder / entry.name
        if entry.is_dir() and not entry.is_symlink():
            # A folder that is left out may have a file that is not, if a rule names one in it.
            if not is_ignored(path, rules) or any(r.startswith(f"!{path}/") for r in rules):
                yield from _below(context, path, rules)
        elif not is_ignored(path, rules):
            yield Path(path)


def is_ignored(path: PurePosixPath, rules: list[str]) -> bool:
    """Whether rules leave a path out: the last that fits it, or a folder above it, decides."""
    ignored = False
    candidates = [path, *path.parents[:-1]]
    for rule in rules:
        pattern = _compiled(rule.removeprefix("!"))
        if any(pattern.fullmatch(str(candidate)) for candidate in candidates):
            ignored = not rule.startswith("!")
    return ignored


@lru_cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Go's ``filepath.Match``, with ``**`` for any number of folders."""
    parts = re.split(r"(\*\*/|\*|\?)", pattern)
    words = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(words.get(part, re.escape(part)) for part in parts))


def copy_in(context: Path, source: str, target: Path, *, into: bool) -> int:
    """Copy a file, or what is in a folder, as ``COPY`` does.

    Args:
        context: Where the source lies.
        source: Path of it.
        target: The file, or the folder, that it becomes.
        into: The target is a folder, to put a file into.

    Returns:
        How many files were copied.

    Raises:
        FileNotFoundError: There is no such source, or it is left out.
    """
    root = Path(source)
    found = [path for path in files(context) if path == root or root in path.parents]
    if not found:
        raise FileNotFoundError(f"COPY {source}: not in the build context")
    for path in found:
        if path == root:
            to = target / path.name if into else target
        else:
            to = target / path.relative_to(root)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(context / path, to)
    return len(found)
