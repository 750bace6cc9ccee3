# SPDX-License-Identifier: Apache-2.0
"""Finished rows to the file that was asked for."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import msgspec
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from appliance.bulk.arguments import EmbedArguments
from appliance.bulk.columns import JsonColumns, UnfitColumn
from appliance.engine.types import FloatMatrix

__all__ = ["FinishedRows", "write_output"]

GROUP_ROWS = 8192
GROUP_BYTES = 64 * 2**20
"""A Parquet row group ends at either."""


@dataclass(frozen=True, slots=True)
class FinishedRows:
    """All rows, with their vectors.

    Attributes:
        read: Reads them from the first on, the vectors being the last column.
        schema: That of the other columns.
        count: How many there are.
        dimensions: Values of a vector.
    """

    read: Callable[[], Iterator[pa.RecordBatch]]
    schema: pa.Schema
    count: int
    dimensions: int


def write_output(file: BinaryIO, rows: FinishedRows, arguments: EmbedArguments) -> None:
    """Write rows in the format that the output's name says.

    ``.npy`` holds float32, shape ``[rows, dimensions]``, with NaN where a row has no vector. The
    other formats hold all columns, and null where a row has none.
    """
    of_json = arguments.input_format == "jsonl"
    match arguments.out.suffix:
        case ".npy":
            _write_npy(file, rows)
        case ".jsonl":
            render = _render_line if of_json else _render_rows
            key = orjson.dumps(arguments.embedding_column)
            for batch in rows.read():
                file.writelines(render(batch, key))
        case _ if of_json:
            _write_parquet_from_json(file, rows, arguments)
        case _:
            schema = _with_vectors(rows.schema, rows, arguments)
            batches = (pa.record_batch(b.columns, schema=schema) for b in rows.read())
            _write_parquet(file, schema, batches)


def _vectors(batch: pa.RecordBatch) -> FloatMatrix:
    """The last column as float32, shape ``[rows, dimensions]``; NaN where it is null."""
    column = batch.column(batch.num_columns - 1)
    vectors: FloatMatrix = column.values.to_numpy().reshape(len(column), -1)
    if column.null_count:
        vectors = np.where(
            column.is_null().to_numpy(zero_copy_only=False)[:, None], np.nan, vectors
        )
    return vectors.astype("<f4", copy=False)


def _write_npy(file: BinaryIO, rows: FinishedRows) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows.count, rows.dimensions)}
    np.lib.format.write_array_header_1_0(file, header)
    file.writelines(_vectors(batch).data for batch in rows.read())


def _vector_values(batch: pa.RecordBatch) -> Iterator[bytes]:
    """Each row's vector as JSON."""
    empty = batch.column(batch.num_columns - 1).is_null().to_pylist()
    for vector, is_empty in zip(_vectors(batch), empty, strict=True):
        yield b"null" if is_empty else orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY)


def _render_line(batch: pa.RecordBatch, key: bytes) -> Iterator[bytes]:
    """Objects as they came, to the byte, and the vector as a last field."""
    for line, vector in zip(batch.column(0).to_pylist(), _vector_values(batch), strict=True):
        comma = b"," if line[1:-1].strip() else b""
        yield b"%b%b%b:%b}\n" % (line[:-1], comma, key, vector)


def _render_rows(batch: pa.RecordBatch, key: bytes) -> Iterator[bytes]:
    others = batch.select(range(batch.num_columns - 1))
    others = others.cast(_json_schema(others.schema), safe=False)
    objects = others.to_pylist(maps_as_pydicts="lossy")
    for row, vector in zip(objects, _vector_values(batch), strict=True):
        line = orjson.dumps(row, default=_json_value, option=orjson.OPT_NON_STR_KEYS)
        yield b"%b,%b:%b}\n" % (line[:-1], key, vector)


def _json_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([(field.name, _json_type(field.type)) for field in schema])


def _json_type(kind: pa.DataType) -> pa.DataType:
    """The type to turn a column into before Python reads it.

    Python has no nanoseconds, and needs a database to know any time zone but UTC.
    """
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz and "UTC")
    if pa.types.is_time64(kind):
        return pa.time64("us")
    if pa.types.is_duration(kind):
        return pa.duration("us")
    if pa.types.is_struct(kind):
        return pa.struct(
            [
                kind.field(n).with_type(_json_type(kind.field(n).type))
                for n in range(kind.num_fields)
            ]
        )
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_json_type(kind.value_type))
    return kind


def _json_value(value: object) -> str:
    """What JSON has no word for: bytes as base64, all else as Python writes it."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _with_vectors(schema: pa.Schema, rows: FinishedRows, arguments: EmbedArguments) -> pa.Schema:
    vectors = pa.list_(pa.float32(), rows.dimensions)
    return schema.append(pa.field(arguments.embedding_column, vectors))


def _write_parquet(file: BinaryIO, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    with pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        # Neither helps with numbers of which no two are alike.
        use_dictionary=_leaves(schema)[:-1],
        write_statistics=_leaves(schema)[:-1],
    ) as writer:
        for group in _groups(batches, schema):
            writer.write_table(group, row_group_size=len(group))


def _leaves(schema: pa.Schema) -> list[str]:
    """Paths of the columns proper, those in lists and structs too."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    columns = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [columns.column(number).path for number in range(len(columns))]


def _groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    group: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        group.append(batch)
        rows += len(batch)
        size += batch.nbytes
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            yield pa.Table.from_batches(group, schema)
            group, rows, size = [], 0, 0
    if group:
        yield pa.Table.from_batches(group, schema)


def _write_parquet_from_json(file: BinaryIO, rows: FinishedRows, arguments: EmbedArguments) -> None:
    columns = JsonColumns(() if rows.count else (arguments.column,))
    for batch in rows.read():
        columns.look_at(_objects(batch))
    while True:
        schema = _with_vectors(columns.schema, rows, arguments)
        batches = (
            pa.record_batch([*columns.convert(_objects(batch)), batch.column(1)], schema=schema)
            for batch in rows.read()
        )
        try:
            return _write_parquet(file, schema, batches)
        except UnfitColumn:
            file.seek(0)
            file.truncate()


def _objects(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in batch.column(0).to_pylist()]
