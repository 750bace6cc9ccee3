# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, whenever the power goes."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["AlreadyLocked", "hold_lock", "sync_folder", "write_durably"]


class AlreadyLocked(Exception):
    """Another process holds the lock.

    Attributes:
        owner: Its process id, as text; empty if it could not be read.
    """

    def __init__(self, owner: str) -> None:
        super().__init__(owner)
        self.owner = owner


@contextmanager
def write_durably(path: Path) -> Iterator[BinaryIO]:
    """Write a file that takes its name, or the place of the one that has it, once it is on disk."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # on a full disk, half a file is only in the way
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


LOOK_SECONDS = 0.02


@contextmanager
def hold_lock(path: Path, seconds: float = 0.0) -> Iterator[None]:
    """Hold a lock that dies with the process. Its folder is made; its file is removed at the end.

    Args:
        path: The lock's file.
        seconds: Longest wait for another process to let go of it. Blocks.

    Raises:
        AlreadyLocked: Another process holds it.
    """
    with _locked(path, time.monotonic() + seconds) as file:
        file.write(str(os.getpid()).encode())
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, end: float) -> Iterator[BinaryIO]:
    while True:
        path.parent.mkdir(exist_ok=True)
        sync_folder(path.parent.parent)
        try:
            file = path.open("a+b")
        except FileNotFoundError:  # another process has just removed the folder
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < end:
                    time.sleep(LOOK_SECONDS)
                    continue
                file.seek(0)
                raise AlreadyLocked(file.read().decode("ascii", "replace")) from None
            # Between the two calls, the file may have been removed by the one who held it.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                file.truncate(0)
                yield file
                return
