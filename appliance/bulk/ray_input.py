# SPDX-License-Identifier: Apache-2.0
"""The Parquet files of the input, and how their rows are shared out."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from appliance.bulk.arguments import EmbedArguments
from appliance.bulk.chunks import CHUNK_ROWS
from appliance.bulk.faults import CommandFault
from appliance.bulk.ray_places import Place, find_place
from appliance.bulk.reader import check_columns

__all__ = ["InputFile", "ParquetFiles", "Shard", "Span", "cut_shards", "find_files", "shard_size"]

MOST_SHARD_ROWS = 8192
"""Rows of a shard: what is lost if its actor dies, and what an actor holds in memory with their
vectors, twice."""

SHARDS_FOR_EACH_ACTOR = 8
"""At least, where there are rows enough: so that all end at about the same time."""

FOOTERS_AT_ONCE = 16


class InputFile(msgspec.Struct, frozen=True):
    """One file, and what tells that it is still the same.

    Attributes:
        path: Its path on its file system.
        rows: Rows in it.
        size: Bytes of it.
        changed: When it was last changed, in nanoseconds of Unix time; 0 where nobody knows.
    """

    path: str
    rows: int
    size: int
    changed: int


class Span(msgspec.Struct, frozen=True):
    """Rows of one file, ``start`` counted from 0, ``stop`` not among them."""

    path: str
    start: int
    stop: int


class Shard(msgspec.Struct, frozen=True):
    """Rows that one actor embeds at a time and writes as one file.

    Attributes:
        number: Its place among the shards, and in the name of its file.
        spans: Its rows, in order.
    """

    number: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class ParquetFiles:
    """The files of an input in order, all of the same columns."""

    place: Place
    files: Sequence[InputFile]
    schema: pa.Schema

    @property
    def rows(self) -> int:
        """Rows in all."""
        return sum(file.rows for file in self.files)


def find_files(arguments: EmbedArguments) -> ParquetFiles:
    """Find the files and look at their columns.

    Raises:
        CommandFault: There are none, one is no Parquet file, or their columns are not what was
            asked for.
    """
    place = find_place(arguments.file_given)
    try:
        found = _list_files(place)
        if not found:
            raise CommandFault(f"there is no file {place.given}")
        with ThreadPoolExecutor(FOOTERS_AT_ONCE, "footers") as threads:
            looks = list(threads.map(lambda info: _look_at(place, info), found))
    except OSError as error:
        raise CommandFault(f"{place.given} cannot be read: {error}") from None
    # Types of a file without rows may be made up, as pandas does.
    looks_with_rows = [look for look in looks if look[0].rows] or looks[:1]
    first, wanted = looks_with_rows[0]
    check_columns(wanted, arguments.column, arguments.embedding_column)
    for file, schema in looks_with_rows:
        if not schema.equals(wanted, check_metadata=False):
            raise CommandFault(
                f"{file.path} has other columns than {first.path}:"
                f" {_first_difference(schema, wanted)}"
            )
    return ParquetFiles(place, [file for file, _ in looks], wanted)


def _list_files(place: Place) -> list[fs.FileInfo]:
    """The file, those of the folder, or those that the pattern fits; sorted by their paths."""
    info = place.system.get_file_info(place.path)
    if info.type == fs.FileType.File:
        return [info]
    pattern = None
    folder = place.path
    if info.type == fs.FileType.NotFound:
        pattern = place.path.split("/")
        first = next((n for n, part in enumerate(pattern) if set("*?[") & set(part)), None)
        if first is None:
            return []
        folder = "/".join(pattern[:first])
    selector = fs.FileSelector(folder, allow_not_found=True, recursive=True)
    files = [i for i in place.system.get_file_info(selector) if i.type == fs.FileType.File]
    if pattern is None:
        files = [info for info in files if _is_data(posixpath.relpath(info.path, folder))]
        if not files:
            raise CommandFault(f"there is no Parquet file in {place.given}")
    else:
        files = [info for info in files if _fits(info.path.split("/"), pattern)]
    return sorted(files, key=lambda info: info.path)


def _is_data(path: str) -> bool:
    hidden = any(part.startswith((".", "_")) for part in path.split("/"))
    return path.endswith(".parquet") and not hidden


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    return len(parts) == len(pattern) and all(map(fnmatchcase, parts, pattern))


def _look_at(place: Place, info: fs.FileInfo) -> tuple[InputFile, pa.Schema]:
    with place.system.open_input_file(info.path) as stream:
        try:
            footer = pq.ParquetFile(stream)
        except pa.ArrowInvalid as error:
            raise CommandFault(f"{info.path} is no Parquet file: {error}") from None
        rows, schema = footer.metadata.num_rows, footer.schema_arrow
    return InputFile(info.path, rows, info.size, info.mtime_ns or 0), schema


def _first_difference(schema: pa.Schema, wanted: pa.Schema) -> str:
    if schema.names != wanted.names:
        return f"{', '.join(schema.names)}; not {', '.join(wanted.names)}"
    changed = (own for own, field in zip(schema, wanted, strict=True) if own.type != field.type)
    field = next(changed, None)
    if field is None:
        return "the same, but null in one and never null in the other"
    return f"{field.name!r} holds {field.type}, not {wanted.field(field.name).type}"


def shard_size(rows: int, actors: int) -> int:
    """Rows of a shard, so that each of so many actors has several of them to do."""
    chunks = -(-rows // (actors * SHARDS_FOR_EACH_ACTOR * CHUNK_ROWS))
    return min(max(chunks, 1) * CHUNK_ROWS, MOST_SHARD_ROWS)


def cut_shards(files: Sequence[InputFile], size: int) -> Iterator[Shard]:
    """Share rows out. The last shard has fewer; without any row, there is one that has none."""
    number, room = 0, size
    spans: list[Span] = []
    for file in files:
        start = 0
        while start < file.rows:
            stop = min(start + room, file.rows)
            spans.append(Span(file.path, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield Shard(number, tuple(spans))
                number, room, spans = number + 1, size, []
    if spans or not number:
        yield Shard(number, tuple(spans))
