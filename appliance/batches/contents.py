# SPDX-License-Identifier: Apache-2.0
"""What is in the files: a folder of ``data_dir``, where each file has its id for a name."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from appliance.batches.records import RESULT_KINDS, Batch, result_file_id
from appliance.durable import sync_folder
from appliance.errors import StorageFailed

__all__ = ["Contents", "Incoming"]

logger = logging.getLogger(__name__)

WRITE_BYTES = 1 << 20
"""Bytes that are gathered in memory before they are written."""

ABANDONED_SECONDS = 3600
"""Age of a half-written file that nobody writes any more."""


class Incoming:
    """A file on its way in.

    Args:
        file: Where it is written.

    Attributes:
        bytes: Its size so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.bytes = 0
        self._file = file
        self._buffer = bytearray()

    async def write(self, chunk: bytes | bytearray) -> None:
        """Add to it.

        Raises:
            OSError: There is no room.
        """
        self._buffer += chunk
        self.bytes += len(chunk)
        if len(self._buffer) >= WRITE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write what is still in memory. Raises as :meth:`write` does."""
        buffer, self._buffer = self._buffer, bytearray()
        await asyncio.to_thread(self._file.write, buffer)


class Contents:
    """The folder.

    Args:
        data_dir: The setting; it and the folder in it are made when there is something to keep.
    """

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir.expanduser() / "files"

    def path(self, file_id: str) -> Path:
        """Where a file's content is."""
        return self._folder / file_id

    def part(self, batch_id: str) -> Path:
        """Where the rows of a batch gather."""
        return self._folder / f"{batch_id}.part"

    def lock(self, batch_id: str) -> Path:
        """What whoever writes there holds."""
        return self._folder / f"{batch_id}.lock"

    def has_files_of(self, batch: Batch) -> bool:
        """Whether what is needed to go on with a batch is here."""
        if batch.ending is None:
            return self.path(batch.input_file_id).exists()
        results = (self.path(result_file_id(batch.id, kind)) for kind in RESULT_KINDS)
        is_empty = not batch.completed and not batch.failed
        return is_empty or any(path.exists() for path in (self.part(batch.id), *results))

    def batches_with_parts(self) -> list[str]:
        """Ids of the batches that rows gather of."""
        return [path.stem for path in self._folder.glob("*.part")]

    def make(self) -> None:
        """Make the folder. Blocks.

        Raises:
            OSError: It cannot be.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @asynccontextmanager
    async def incoming(self, file_id: str) -> AsyncIterator[Incoming]:
        """Take a file in; it is there once the block has ended, and not at all if that fails.

        Raises:
            StorageFailed: It cannot be written.
        """
        path = self.path(file_id)
        temporary = path.with_name(f"{file_id}.tmp")
        try:
            file = await asyncio.to_thread(self._open, temporary)
            try:
                incoming = Incoming(file)
                yield incoming
                await incoming.flush()
                await asyncio.to_thread(_keep, file, temporary, path)
            except BaseException:
                _discard(file, temporary)
                raise
        except OSError as error:
            logger.error("%s cannot be written: %s", temporary, error)
            reason = error.strerror or "it cannot be written"
            raise StorageFailed(f"The file could not be kept: {reason}.") from None

    def remove(self, file_id: str) -> None:
        """Delete a file's content, if it is there. Blocks."""
        with suppress(OSError):  # what cannot be removed is only in the way
            self.path(file_id).unlink(missing_ok=True)

    def clear_abandoned(self) -> None:
        """Delete what was left half-written by a process that was killed. Blocks."""
        for path in self._folder.glob("*.tmp"):
            with suppress(OSError):  # another process may have been faster
                if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()

    def _open(self, path: Path) -> BinaryIO:
        self.make()
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _keep(file: BinaryIO, temporary: Path, path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
    temporary.replace(path)
    sync_folder(path.parent)


def _discard(file: BinaryIO, path: Path) -> None:
    with suppress(OSError):
        file.close()
    with suppress(OSError):
        path.unlink()
