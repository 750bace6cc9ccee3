# SPDX-License-Identifier: Apache-2.0
"""Every format of input, and what can be wrong with it."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from appliance.bulk import lines
from appliance.bulk.reader import READ_AHEAD_BYTES, ParquetSource
from tests.bulk.helpers import assert_vectors, embed, read_rows

ROWS = [{"id": str(number), "text": f"text {number}", "note": "a, b"} for number in range(700)]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    match path.suffix:
        case ".txt":
            path.write_text("".join(row["text"] + "\n" for row in rows))
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".csv":
            lines = [",".join(f'"{value}"' for value in row.values()) for row in rows]
            path.write_text("\n".join(["id,text,note", *lines]) + "\n")
        case _:
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=100)


@pytest.mark.parametrize("out", ["out.parquet", "out.jsonl"])
@pytest.mark.parametrize("name", ["in.txt", "in.jsonl", "in.csv", "in.parquet"])
def test_each_row_gets_its_vector_and_keeps_its_columns(
    name: str, out: str, tmp_path: Path
) -> None:
    write(tmp_path / name, ROWS)
    assert embed(tmp_path / name, "--out", tmp_path / out) == 0
    rows = read_rows(tmp_path / out)
    assert_vectors(rows)
    carried = [{k: v for k, v in row.items() if k != "embedding"} for row in rows]
    assert carried == ([{"text": row["text"]} for row in ROWS] if name == "in.txt" else ROWS)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("name", ["in.txt", "in.jsonl", "in.csv", "in.parquet"])
def test_an_array_has_nothing_but_vectors(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, ROWS)
    assert embed(tmp_path / name, "--out", tmp_path / "out.npy") == 0
    vectors = np.load(tmp_path / "out.npy")
    assert (vectors.dtype, vectors.shape) == (np.float32, (700, 8))
    rows = [{"text": row["text"], "embedding": v} for row, v in zip(ROWS, vectors, strict=True)]
    assert_vectors(rows)


@pytest.mark.parametrize("out", ["out.parquet", "out.jsonl", "out.npy"])
@pytest.mark.parametrize("name", ["in.txt", "in.jsonl", "in.csv", "in.parquet"])
def test_no_rows_are_no_fault(name: str, out: str, tmp_path: Path) -> None:
    write(tmp_path / name, [])
    if name == "in.parquet":
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / name)
    assert embed(tmp_path / name, "--out", tmp_path / out) == 0
    if out == "out.npy":
        assert np.load(tmp_path / out).shape == (0, 8)
    elif out == "out.jsonl":
        assert (tmp_path / out).read_bytes() == b""
    else:
        schema = pq.read_schema(tmp_path / out)
        assert schema.field("embedding").type == pa.list_(pa.float32(), 8)
        assert schema.field("text").type == pa.string()


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    texts = ["a\u2028b", "c\x0bd", "e\x85f", "g\rh", "\ufeffi", " j "]
    content = "\ufeff" + "\r\n".join(texts)  # a byte order mark, CRLF, and no end of the last line
    (tmp_path / "in.txt").write_bytes(content.encode())
    assert embed(tmp_path / "in.txt", "--out", tmp_path / "out.parquet") == 0
    assert [row["text"] for row in read_rows(tmp_path / "out.parquet")] == texts


def test_csv_fields_may_hold_anything(tmp_path: Path) -> None:
    content = 'id,"te""xt"\r\n007,"two\r\nlines, ""quoted"""\r\n\r\n,\u2028plain\r\n'
    (tmp_path / "in.csv").write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert embed(tmp_path / "in.csv", "--out", tmp_path / "out.jsonl", "--column", 'te"xt') == 0
    rows = read_rows(tmp_path / "out.jsonl")
    assert [row["id"] for row in rows] == ["007", ""]
    assert [row['te"xt'] for row in rows] == ['two\r\nlines, "quoted"', "\u2028plain"]


def test_json_lines_are_kept_to_the_byte(tmp_path: Path) -> None:
    given = [
        b'{"text": "a", "big": 12345678901234567890123, "price": 1.10, "t\\u0065xt2": [ 1 ]}',
        b'  { "x":{"y":[]} , "text":"\xe2\x80\xa8b" }\r',
        b"",
        b'{"text":"c"}',
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(given))
    assert embed(tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl") == 0
    found = (tmp_path / "out.jsonl").read_bytes().split(b"\n")[:-1]
    kept = [line.rpartition(b',"embedding":[')[0] for line in found]
    assert kept == [line.strip()[:-1] for line in given if line]
    assert_vectors(read_rows(tmp_path / "out.jsonl"))


def test_json_fields_of_any_kind_become_columns(tmp_path: Path) -> None:
    """A kind that first shows thousands of rows on changes nothing but the column's type."""
    objects: list[dict[str, Any]] = [{"text": f"row {number}", "n": 1} for number in range(3000)]
    objects[2000] |= {"late": "here", "n": 2.5, "mixed": 1, "nested": {"a": [1]}, "none": {}}
    objects[2900] |= {"mixed": "1", "nested": {"b": None}, "huge": 2**70}
    write(tmp_path / "in.jsonl", objects)
    assert embed(tmp_path / "in.jsonl", "--out", tmp_path / "out.parquet") == 0
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert schema.names == ["text", "n", "late", "mixed", "nested", "none", "huge", "embedding"]
    assert schema.field("n").type == pa.float64()
    rows = read_rows(tmp_path / "out.parquet")
    assert [rows[i]["n"] for i in (0, 2000)] == [1.0, 2.5]
    assert [rows[i]["late"] for i in (0, 2000)] == [None, "here"]
    assert [rows[i]["mixed"] for i in (0, 2000, 2900)] == [None, "1", '"1"']
    assert rows[2000]["nested"] == {"a": [1], "b": None}
    assert (rows[2000]["none"], rows[2900]["huge"]) == ("{}", str(2**70))
    assert_vectors(rows)


def test_parquet_columns_keep_their_types(tmp_path: Path) -> None:
    count = 600
    numbers = range(count)
    table = pa.table(
        {
            "text": pa.array([f"text {n // 50}" for n in numbers]).dictionary_encode(),
            "when": pa.array(numbers, pa.timestamp("ns", "Europe/Berlin")),
            "tags": pa.array([[str(n)] * (n % 3) if n % 4 else None for n in numbers]),
            "raw": pa.array([b"\xff" * (n % 3) for n in numbers]),
            "old": pa.array([[0.5] * 4 for _ in numbers], pa.list_(pa.float32(), 4)),
            "deep": pa.array([{"a": {"b": n}} for n in numbers]),
        }
    ).replace_schema_metadata({"made by": "me"})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=170)
    assert embed(tmp_path / "in.parquet", "--out", tmp_path / "out.parquet") == 0
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.drop_columns("embedding").equals(pq.read_table(tmp_path / "in.parquet"))
    assert found.schema.metadata[b"made by"] == b"me"
    assert_vectors(found.select(["text", "embedding"]).to_pylist())
    columns = pq.ParquetFile(tmp_path / "out.parquet").metadata.row_group(0)
    last = columns.column(columns.num_columns - 1)
    assert (last.compression, last.path_in_schema) == ("ZSTD", "embedding.list.element")


def test_parquet_columns_become_json(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array(["a"], pa.large_string()),
            "when": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns", "Europe/Berlin")),
            "times": pa.array([[1_000]], pa.list_(pa.time64("ns"))),
            "map": pa.array([[(1, "one")]], pa.map_(pa.int64(), pa.string())),
            "raw": pa.array([b"\xff"]),
            "nan": pa.array([float("nan")]),
            "money": pa.array(["1.10"]).cast(pa.decimal128(5, 2)),
            "took": pa.array([{"s": 90_000_000_000}], pa.struct([("s", pa.duration("ns"))])),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    assert embed(tmp_path / "in.parquet", "--out", tmp_path / "out.jsonl") == 0
    (row,) = read_rows(tmp_path / "out.jsonl")
    del row["embedding"]
    assert row == {
        "text": "a",
        "when": "2023-11-14T22:13:20.123456+00:00",
        "times": ["00:00:00.000001"],
        "map": {"1": "one"},
        "raw": "/w==",
        "nan": None,
        "money": "1.10",
        "took": {"s": "0:01:30"},
    }


BAD: dict[str, tuple[str, bytes, int, str]] = {
    "not UTF-8": ("in.txt", b"fine\n\xff\n", 1, "line 2 is not UTF-8"),
    "UTF-16": ("in.txt", "text".encode("utf-16"), 1, "line 1 is not UTF-8"),
    "bad JSON": ("in.jsonl", b'{"text": "a"}\n{"text": }\n', 1, "line 2 is not valid JSON"),
    "no object": ("in.jsonl", b'{"text": "a"}\n\n[1]\n', 1, "line 3 is valid JSON, but not an obj"),
    "no such field": ("in.jsonl", b'{"id": 1, "body": "a"}\n', 2, "they have: id, body"),
    "field is taken": ("in.jsonl", b'{"text":"a"}\n{"text":"b","embedding":1}', 2, "line 2 has a"),
    "no header": ("in.csv", b"", 2, "begins with a header"),
    "ragged": ("in.csv", b"id,text\n1,a\n2\n", 1, "line 3 has 1 fields, but the header has 2"),
    "open quote": ("in.csv", b'text\na\n"b\nc\n', 1, "line 3 is not valid CSV"),
    "no such column": ("in.csv", b"id,body\n1,a\n", 2, "there is no column 'text'; there are: id,"),
    "column is taken": ("in.csv", b"text,embedding\na,b\n", 2, "--embedding-column"),
    "same name twice": ("in.csv", b"text,id,id\na,b,c\n", 2, "two columns are called 'id'"),
    "no Parquet": ("in.parquet", b"PAR1 or not", 2, "this is no Parquet file"),
    "unknown format": ("in.dat", b"a\n", 2, "--format text, jsonl, csv or parquet"),
    "no file": ("", b"", 2, "there is no file"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_broken_input_is_told_in_one_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, content, code, message = BAD[case]
    if name:
        (tmp_path / name).write_bytes(content)
    out = tmp_path / "out.parquet"
    assert embed(tmp_path / (name or "gone.txt"), "--out", out) == code
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert [path for path in tmp_path.iterdir() if path.name != name] == []


def test_a_column_of_numbers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"text": [1]}), tmp_path / "in.parquet")
    assert embed(tmp_path / "in.parquet", "--out", tmp_path / "out.npy") == 2
    assert "column 'text' holds int64, not text" in capsys.readouterr().err


def test_a_line_without_end_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 2**20)
    (tmp_path / "in.txt").write_bytes(b"fine\n" + b"x" * (2**20 + 1))
    assert embed(tmp_path / "in.txt", "--out", tmp_path / "out.npy") == 1
    assert "line 2 is longer than 1 MiB" in capsys.readouterr().err


def test_a_large_row_group_is_not_read_at_once(tmp_path: Path) -> None:
    """A file that is one row group is common, and may be larger than the memory."""

    class Watched(io.FileIO):
        most = 0

        def read(self, size: int | None = -1) -> bytes:
            content = super().read(-1 if size is None else size)
            self.most = max(self.most, len(content))
            return content

    texts = [f"{number} {random.Random(number).randbytes(1000).hex()}" for number in range(8000)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "in.parquet", compression="none")
    assert (tmp_path / "in.parquet").stat().st_size > 12 * READ_AHEAD_BYTES
    with Watched(tmp_path / "in.parquet") as stream:
        source = ParquetSource(stream, "text")  # type: ignore[arg-type]
        assert sum(len(chunk.texts) for chunk in source.chunks()) == 8000
        assert stream.most <= 2 * READ_AHEAD_BYTES


def test_a_name_that_is_taken_matters_only_where_there_are_names(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"text,embedding\na,b\n")
    assert embed(tmp_path / "in.csv", "--out", tmp_path / "out.npy") == 0
    other = ("--embedding-column", "vector")
    assert embed(tmp_path / "in.csv", "--out", tmp_path / "out.parquet", *other) == 0
    assert pq.read_schema(tmp_path / "out.parquet").names == ["text", "embedding", "vector"]
