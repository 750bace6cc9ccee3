# SPDX-License-Identifier: Apache-2.0
"""Inputs that are made of lines: text, JSONL and CSV."""

from __future__ import annotations

import csv
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

import msgspec
import pyarrow as pa

from appliance.bulk.chunks import CHUNK_ROWS, CHUNK_SIZE, MISSING, Chunk
from appliance.bulk.faults import BulkFault, CommandFault

__all__ = ["CsvSource", "JsonlSource", "TextSource", "is_regular"]

MAX_LINE_BYTES = 64 * 2**20
"""A line longer than this is no line but a file of another kind."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def is_regular(stream: BinaryIO) -> bool:
    """Whether a stream is a file of known size, and no pipe."""
    return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)


class Lines:
    r"""Lines of a stream, with their ends. Only ``\n`` ends one, as in an editor.

    Attributes:
        number: The line that was read last, counted from 1.
        position: Bytes up to its end.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.number = 0
        self.position = 0

    def __iter__(self) -> Iterator[bytes]:
        while content := self._stream.readline(MAX_LINE_BYTES + 1):
            self.number += 1
            self.position += len(content)
            if len(content) > MAX_LINE_BYTES:
                raise BulkFault(
                    f"line {self.number} is longer than {MAX_LINE_BYTES >> 20} MiB; if this is no"
                    " file of lines, say with --format what it is"
                )
            yield content.removeprefix(BYTE_ORDER_MARK) if self.number == 1 else content

    def decode(self, content: bytes) -> str:
        """The text of the line that was read last."""
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BulkFault(
                f"line {self.number} is not UTF-8, from its byte {error.start + 1} on; convert the"
                " file first, for instance with iconv"
            ) from None


class Row(NamedTuple):
    """One row of a file of lines."""

    place: int
    text: object
    content: Any
    """What is kept of it: a text, a line, or the fields of a line."""
    size: int
    position: int


class LineSource(ABC):
    """What the three formats have in common; see :class:`appliance.bulk.chunks.Source`."""

    unit = "line"
    schema: pa.Schema

    def __init__(self, stream: BinaryIO) -> None:
        self._lines = Lines(stream)
        self.total = os.fstat(stream.fileno()).st_size if is_regular(stream) else None

    def chunks(self) -> Iterator[Chunk]:
        """The rows from the first on."""
        rows: list[Row] = []
        size = 0
        for row in self._rows():
            rows.append(row)
            size += row.size
            if len(rows) == CHUNK_ROWS or size >= CHUNK_SIZE:
                yield self._chunk(rows)
                rows, size = [], 0
        if rows:
            yield self._chunk(rows)

    def _chunk(self, rows: Sequence[Row]) -> Chunk:
        return Chunk(
            self._batch([row.content for row in rows]),
            [row.text for row in rows],
            [row.place for row in rows],
            sum(row.size for row in rows),
            rows[-1].position,
        )

    @abstractmethod
    def _rows(self) -> Iterator[Row]: ...

    @abstractmethod
    def _batch(self, contents: list[Any]) -> pa.RecordBatch: ...


class TextSource(LineSource):
    """One text a line. A blank line is an empty text, so that row and line number agree."""

    def __init__(self, stream: BinaryIO, column: str) -> None:
        super().__init__(stream)
        self.schema = pa.schema([(column, pa.string())])

    def _rows(self) -> Iterator[Row]:
        for line in self._lines:
            text = self._lines.decode(line.removesuffix(b"\n").removesuffix(b"\r"))
            yield Row(self._lines.number, text, text, len(text), self._lines.position)

    def _batch(self, contents: list[Any]) -> pa.RecordBatch:
        return pa.record_batch([contents], schema=self.schema)


class JsonlSource(LineSource):
    """One JSON object a line, kept as it stands. Blank lines are passed over.

    Args:
        stream: The file.
        column: Field with the text.
        new_field: Field that no object may have yet, if any.
    """

    schema = pa.schema([("line", pa.binary())])

    def __init__(self, stream: BinaryIO, column: str, new_field: str | None) -> None:
        super().__init__(stream)
        self._column = column
        self._new_field = new_field
        self._fields: dict[str, None] = {}
        self._decoder = msgspec.json.Decoder()
        first = next(super().chunks(), None)
        if first and all(text is MISSING for text in first.texts):
            raise CommandFault(
                f"no object up to line {first.places[-1]} has a field {column!r}; they have:"
                f" {', '.join(self._fields) or 'none'}. Name the one with the text by --column"
            )
        self._first = [first] if first else []

    def chunks(self) -> Iterator[Chunk]:
        """The rows from the first on."""
        return chain(self._first, super().chunks())

    def _rows(self) -> Iterator[Row]:
        for line in self._lines:
            content = line.strip()
            if not content:
                continue
            number = self._lines.number
            value = self._decode(content)
            if number <= CHUNK_ROWS:
                self._fields.update(dict.fromkeys(value))
            if self._new_field in value:
                raise CommandFault(
                    f"line {number} has a field {self._new_field!r} already; choose another name"
                    " by --embedding-column"
                )
            text = value.get(self._column, MISSING)
            yield Row(number, text, content, len(content), self._lines.position)

    def _decode(self, content: bytes) -> dict[str, object]:
        number = self._lines.number
        try:
            value = self._decoder.decode(content)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BulkFault(f"line {number} is not valid JSON: {error}") from None
        if not isinstance(value, dict):
            raise BulkFault(f"line {number} is valid JSON, but not an object in braces")
        return value

    def _batch(self, contents: list[Any]) -> pa.RecordBatch:
        return pa.record_batch([contents], schema=self.schema)


class CsvSource(LineSource):
    """Comma-separated values under a header, as RFC 4180 has them. Blank lines are passed over.

    All values are text: nothing in the file says that ``007`` is a number.
    """

    def __init__(self, stream: BinaryIO, column: str) -> None:
        super().__init__(stream)
        csv.field_size_limit(MAX_LINE_BYTES)
        self._reader = csv.reader(map(self._lines.decode, self._lines), strict=True)
        names = next(self._records(), (0, []))[1]
        if not names:
            raise CommandFault("the file is empty; a CSV file begins with a header line")
        self._text = names.index(column) if column in names else 0
        self.schema = pa.schema([(name, pa.string()) for name in names])

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Records and the line that each starts in."""
        while True:
            place = self._lines.number + 1
            try:
                fields = next(self._reader, None)
            except csv.Error as error:
                raise BulkFault(
                    f"line {place} is not valid CSV: {error}; is a quote not closed?"
                ) from None
            if fields is None:
                return
            if fields:
                yield place, fields

    def _rows(self) -> Iterator[Row]:
        width = len(self.schema)
        for place, fields in self._records():
            if len(fields) != width:
                raise BulkFault(
                    f"line {place} has {len(fields)} fields, but the header has {width}"
                )
            size = sum(map(len, fields))
            yield Row(place, fields[self._text], fields, size, self._lines.position)

    def _batch(self, contents: list[Any]) -> pa.RecordBatch:
        columns = [list(column) for column in zip(*contents, strict=True)]
        return pa.record_batch(columns, schema=self.schema)
