# SPDX-License-Identifier: Apache-2.0
"""Gathers finished rows and has them written, a part at a time."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec
import pyarrow as pa

from appliance.bulk.chunks import Todo
from appliance.bulk.embedder import Embedded
from appliance.bulk.folder import Manifest, WorkFolder

__all__ = ["PartWriter", "with_vectors"]

LEAST_PART_SECONDS, MOST_PART_SECONDS = 1.0, 60.0
PART_SHARE = 0.01
"""Time of a run that a kill may cost, within these bounds; and so, how many parts there are."""

PART_BYTES = 64 * 2**20
"""Finished rows that are held in memory."""

EMBEDDING = "embedding"
"""Name of the vectors' column in a part, the last. It gets its own in the output."""


class PartWriter:
    """Writes parts on a thread of its own, one after the other.

    Args:
        folder: Where they go.
        manifest: What the folder holds.

    Attributes:
        kept: What the folder holds by now.
    """

    def __init__(self, folder: WorkFolder, manifest: Manifest) -> None:
        self.kept = manifest
        self._folder = folder
        self._manifest = manifest
        """With the rows that are gathered, but not yet on disk."""
        self._gathered: list[pa.RecordBatch] = []
        self._gathered_bytes = 0
        self._started = self._gathered_since = time.monotonic()
        self._thread = ThreadPoolExecutor(1, "write")
        self._writing: Future[None] | None = None

    def add(self, item: Todo, embedded: Embedded) -> None:
        """Take the next rows."""
        rows = with_vectors(item.chunk.rows, embedded)
        self._gathered.append(rows)
        self._gathered_bytes += rows.nbytes
        before = self._manifest
        self._manifest = msgspec.structs.replace(
            before,
            rows=before.rows + len(rows),
            tokens=before.tokens + embedded.tokens,
            truncated=before.truncated + embedded.truncated,
            empty=before.empty + int(embedded.empty.sum()),
            position=item.chunk.position,
            digest=item.digest.hex(),
        )

    async def write_if_due(self) -> None:
        """Have the gathered rows written, if they have waited long enough or are many.

        Raises:
            OSError: The folder cannot be written.
        """
        now = time.monotonic()
        patience = PART_SHARE * (now - self._started)
        patience = min(max(patience, LEAST_PART_SECONDS), MOST_PART_SECONDS)
        waited = now - self._gathered_since
        if not self._gathered or (waited < patience and self._gathered_bytes < PART_BYTES):
            return
        if self._writing is not None:
            writing = asyncio.wrap_future(self._writing)
            await asyncio.wait([writing])  # not cancelled with this task, as by a plain await
            writing.result()
        rows = self._take_gathered()
        self._writing = self._thread.submit(self._keep, rows, self._manifest)

    def close(self) -> None:
        """Write what is left, and wait until all is on disk.

        Raises:
            OSError: The folder cannot be written.
        """
        self._thread.shutdown()
        if self._writing is not None:
            self._writing.result()
        if self._gathered:
            self._keep(self._take_gathered(), self._manifest)

    def _take_gathered(self) -> list[pa.RecordBatch]:
        rows, self._gathered, self._gathered_bytes = self._gathered, [], 0
        self._gathered_since = time.monotonic()
        self._manifest = msgspec.structs.replace(self._manifest, parts=self._manifest.parts + 1)
        return rows

    def _keep(self, rows: list[pa.RecordBatch], manifest: Manifest) -> None:
        self._folder.add_part(rows, manifest)
        self.kept = manifest


def with_vectors(rows: pa.RecordBatch, embedded: Embedded) -> pa.RecordBatch:
    """Rows with their vectors as a last column, of lists; null where there is none."""
    vectors = embedded.vectors
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.reshape(-1)),
        vectors.shape[1],
        mask=pa.array(embedded.empty) if embedded.empty.any() else None,
    )
    return rows.append_column(EMBEDDING, column)
