# SPDX-License-Identifier: Apache-2.0
"""Opens the input, whatever its format."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from appliance.bulk.arguments import EmbedArguments
from appliance.bulk.chunks import CHUNK_ROWS, CHUNK_SIZE, Chunk, Source
from appliance.bulk.faults import BulkFault, CommandFault
from appliance.bulk.lines import CsvSource, JsonlSource, TextSource, is_regular

__all__ = ["ParquetSource", "check_columns", "open_source"]

READ_AHEAD_BYTES = 2**20
"""What is read of a column at once, however large the file's row groups are."""


@contextmanager
def open_source(arguments: EmbedArguments) -> Iterator[Source]:
    """Open the input and check that it can be what was asked for.

    Raises:
        CommandFault: There is no such file or column, or the new column's name is taken.
        BulkFault: The file is broken.
    """
    stream = _open(arguments)
    try:
        yield _source(stream, arguments)
    finally:
        # Of a pipe, another thread may be waiting for more, and to close it would be to wait, too.
        if is_regular(stream):
            stream.close()


def _open(arguments: EmbedArguments) -> BinaryIO:
    if arguments.input_format is None:
        raise CommandFault(
            f"the name {arguments.file} does not say what is in it; add --format text, jsonl, csv"
            " or parquet"
        )
    try:
        if arguments.from_stdin:
            return os.fdopen(0, "rb", closefd=False)
        return arguments.file.open("rb")
    except FileNotFoundError:
        raise CommandFault(f"there is no file {arguments.file}") from None
    except OSError as error:
        raise CommandFault(f"{arguments.file} cannot be read: {error.strerror}") from None


def _source(stream: BinaryIO, arguments: EmbedArguments) -> Source:
    column = arguments.column
    new_column = arguments.embedding_column if arguments.keeps_columns else None
    source: TextSource | CsvSource | ParquetSource
    match arguments.input_format:
        case "jsonl":
            return JsonlSource(stream, column, new_column)
        case "text":
            source = TextSource(stream, column)
        case "csv":
            source = CsvSource(stream, column)
        case _:
            if not is_regular(stream):
                raise CommandFault(
                    "Parquet is read from its end, so it cannot come through a pipe; give the"
                    " file's name"
                )
            source = ParquetSource(stream, column)
    check_columns(source.schema, column, new_column)
    return source


def check_columns(schema: pa.Schema, column: str, new_column: str | None) -> None:
    """Make sure that there is a column of texts, and no other of the new column's name.

    Raises:
        CommandFault: It is not so.
    """
    names = schema.names
    if twice := [name for name in names if names.count(name) > 1]:
        raise CommandFault(f"two columns are called {twice[0]!r}; give one of them another name")
    if column not in names:
        raise CommandFault(
            f"there is no column {column!r}; there are: {', '.join(names)}. Name the one with the"
            " text by --column"
        )
    kind = schema.field(column).type
    if not _is_text(kind):
        raise CommandFault(f"column {column!r} holds {kind}, not text")
    if new_column in names:
        raise CommandFault(
            f"there is a column {new_column!r} already; choose another name by --embedding-column"
        )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    of_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(fits(kind) for fits in (*of_text, pa.types.is_null))


class ParquetSource:
    """A Parquet file, or some rows of it; see :class:`appliance.bulk.chunks.Source`.

    Args:
        stream: The file, which can be read from any place on.
        column: That of the texts.
        rows: The rows to read, counted from 0. Unset: all.

    Raises:
        CommandFault: It is no Parquet file.
    """

    unit = "row"

    def __init__(
        self, stream: BinaryIO | pa.NativeFile, column: str, rows: range | None = None
    ) -> None:
        try:
            self._file = pq.ParquetFile(stream, buffer_size=READ_AHEAD_BYTES, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise CommandFault(f"this is no Parquet file: {error}") from None
        self._column = column
        self.schema: pa.Schema = self._file.schema_arrow
        self.total: int | None = self._file.metadata.num_rows
        self._rows = range(self._file.metadata.num_rows) if rows is None else rows

    def chunks(self) -> Iterator[Chunk]:
        """The rows from the first on."""
        place = self._rows.start + 1
        try:
            for batch in self._batches():
                texts = batch.column(self._column).cast(pa.string()).to_pylist()
                for start, stop in _cut([len(text or "") for text in texts]):
                    rows = batch.slice(start, stop - start)
                    places = range(place, place + len(rows))
                    yield Chunk(rows, texts[start:stop], places, rows.nbytes, places[-1])
                    place += len(rows)
        except (pa.ArrowException, OSError) as error:
            raise BulkFault(f"the Parquet file is broken behind row {place - 1}: {error}") from None

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """The rows that are wanted, read from the groups of rows that they are in."""
        groups: list[int] = []
        end = first = 0
        for number in range(self._file.num_row_groups):
            start, end = end, end + self._file.metadata.row_group(number).num_rows
            if start < self._rows.stop and end > self._rows.start:
                first = first if groups else start
                groups.append(number)
        place = first
        for batch in self._file.iter_batches(CHUNK_ROWS, row_groups=groups) if groups else ():
            start = max(self._rows.start - place, 0)
            stop = self._rows.stop - place
            if stop <= 0:
                return
            place += len(batch)
            if start < len(batch):
                yield batch.slice(start, stop - start)


def _cut(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Split rows into runs that end once they reach the size of a chunk."""
    start = total = 0
    for position, size in enumerate(sizes, 1):
        total += size
        if total >= CHUNK_SIZE or position == len(sizes):
            yield start, position
            start, total = position, 0
