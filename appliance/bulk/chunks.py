# SPDX-License-Identifier: Apache-2.0
"""Rows of the input, a few hundred at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["CHUNK_ROWS", "CHUNK_SIZE", "MISSING", "Chunk", "Source", "Todo", "chain_digest"]

CHUNK_ROWS = 256
"""Most rows of a chunk: small against memory, large against the cost of a call."""

CHUNK_SIZE = 65_536
"""Characters, or bytes of a line, at which a chunk ends before it has so many rows. As text these
are some 16 000 tokens, an accelerator's batch."""

MISSING = object()
"""Stands for the text of a row that has none, not even null."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Neighbouring rows. Where a chunk ends depends on the rows up to there and on nothing else."""

    rows: pa.RecordBatch
    """What is kept of them until the output is written."""

    texts: Sequence[object]
    """What is to be embedded: strings, or whatever stands where a string should."""

    places: Sequence[object]
    """Where each row is in the input, as messages tell it behind the source's unit: counted from 1,
    and of several files with the file's name."""

    size: int
    """Bytes in all, roughly."""

    position: int
    """How far into the source's total the last row reaches."""


@dataclass(frozen=True, slots=True)
class Todo:
    """A chunk that is to be embedded, and the digest of all rows up to its end."""

    chunk: Chunk
    digest: bytes


class Source(Protocol):
    """An input that has been opened and has the columns that it should have.

    Attributes:
        unit: What rows are counted in, for messages.
        schema: That of every chunk's rows.
        total: Bytes of a file of lines, rows of a table; ``None`` where nobody knows.
    """

    unit: str
    schema: pa.Schema
    total: int | None

    def chunks(self) -> Iterator[Chunk]:
        """The rows from the first on. May be called once.

        Raises:
            BulkFault: The input is broken at some row.
        """


def chain_digest(previous: bytes, rows: pa.RecordBatch) -> bytes:
    """Digest of all rows so far, given that of those before a chunk.

    Rows are told apart by their data pages in Parquet, which, unlike Arrow's own buffers, hold
    nothing where a value is null.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_batches([rows]),
        sink,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
    )
    written = memoryview(sink.getvalue())
    # The last eight bytes are the length of the footer, which names the library's version, and a
    # magic number: https://parquet.apache.org/docs/file-format/
    footer = int.from_bytes(written[-8:-4], "little")
    return hashlib.blake2b(previous + written[: -8 - footer], digest_size=16).digest()
