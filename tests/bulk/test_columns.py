# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.bulk.columns import JsonColumns, UnfitColumn

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=6,
)
OBJECTS = st.lists(st.dictionaries(st.sampled_from(["x", "y", "z"]), VALUES), max_size=8)


def convert(groups: list[list[dict[str, Any]]]) -> pa.Table:
    columns = JsonColumns()
    for group in groups:
        columns.look_at(group)
    while True:
        try:
            batches = [
                pa.record_batch(columns.convert(group), schema=columns.schema) for group in groups
            ]
            return pa.Table.from_batches(batches, columns.schema)
        except UnfitColumn:
            continue


def is_same(given: object, found: object) -> bool:
    """Whether a value came through, a number perhaps as float, an object with fields more."""
    if isinstance(given, dict) and isinstance(found, dict):
        return all(is_same(given.get(key), found[key]) for key in {*given, *found})
    if isinstance(given, list) and isinstance(found, list):
        return len(given) == len(found) and all(map(is_same, given, found))
    return given == found and isinstance(given, bool) == isinstance(found, bool)


@settings(deadline=None, max_examples=300)
@given(st.lists(OBJECTS, max_size=4))
def test_every_value_comes_through(groups: list[list[dict[str, Any]]]) -> None:
    table = convert(groups)
    pq.write_table(table, pa.BufferOutputStream())
    objects = [value for group in groups for value in group]
    assert table.schema.names == list(dict.fromkeys(name for value in objects for name in value))
    for name in table.schema.names:
        given = [value.get(name) for value in objects]
        found = table[name].to_pylist()
        if not all(map(is_same, given, found)):
            assert table.schema.field(name).type == pa.string()
            assert given == [None if text is None else json.loads(text) for text in found]


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (1, 2.5, pa.float64()),
        (None, "a", pa.string()),
        ([], [1], pa.list_(pa.int64())),
        ({"a": 1}, {"b": "x"}, pa.struct([("a", pa.int64()), ("b", pa.string())])),
        (None, None, pa.string()),
        (True, 1, pa.string()),
        (2**60 + 1, 0.5, pa.string()),
    ],
)
def test_kinds_meet(first: object, second: object, kind: pa.DataType) -> None:
    apart = convert([[{"x": first}], [{"x": second}]])
    together = convert([[{"x": first}, {"x": second}]])
    assert apart.schema == together.schema == pa.schema([("x", kind)])
    assert apart == together
