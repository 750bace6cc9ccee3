# SPDX-License-Identifier: Apache-2.0
"""The folder for weights that a process puts on disk, and that nobody reads after it.

Every process has a folder of its own and holds a lock in it. The system lets go of the lock however
the process ends, so that the next one to start finds what a crash has left, and removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path

__all__ = ["SwapFolder"]

_PREFIX = "appliance-"
_LOCK = "lock"


class SwapFolder:
    """This process's own folder below the one that settings name.

    What processes that are no more have left beside it is removed.

    Args:
        parent: The folder that settings name; made if need be.

    Raises:
        OSError: No files can be written there.

    Attributes:
        path: The folder.
    """

    def __init__(self, parent: Path) -> None:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            # Held meanwhile, so that nobody sees a folder whose lock is still to be taken.
            with (parent / f".{_PREFIX}{_LOCK}").open("ab") as guard:
                fcntl.flock(guard, fcntl.LOCK_EX)
                _remove_left_behind(parent)
                self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
                lock = os.open(self.path / _LOCK, os.O_WRONLY | os.O_CREAT, 0o600)
                # Also when nobody uses it any more, and at a regular end of the process.
                self._remove = weakref.finalize(self, _remove, self.path, lock)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            told = f"weights cannot be put away in this folder: {error.strerror or error}"
            raise OSError(error.errno, told, str(parent)) from error

    def close(self) -> None:
        """Remove the folder and all that is in it."""
        self._remove()


def _remove(path: Path, lock: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(lock)


def _remove_left_behind(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        if folder.is_dir() and not folder.is_symlink() and not _is_locked(folder / _LOCK):
            shutil.rmtree(folder, ignore_errors=True)


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # held by another process, or another user's
        return True
    return False
