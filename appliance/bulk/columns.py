# SPDX-License-Identifier: Apache-2.0
"""Typed columns from JSON objects, whose fields may come, go and change their kind.

A column gets the narrowest type that all its values fit: numbers with and without a fraction meet
as float64, objects as the union of their fields. Values that no type has room for, such as a text
here and a number there, become text: each written as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

__all__ = ["JsonColumns", "UnfitColumn"]

_SIMPLE = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


class UnfitColumn(Exception):
    """A value does not fit its column after all, such as a number too large for float64.

    The column holds JSON text from now on.
    """


class JsonColumns:
    """The columns of some objects. All have to be shown once before any is converted.

    Args:
        first: Names of columns that are there even if no object has them; of text then.
    """

    def __init__(self, first: Sequence[str] = ()) -> None:
        self._types: dict[str, pa.DataType | None] = dict.fromkeys(first, pa.null())
        """``None``: several kinds, kept as JSON text."""

    def look_at(self, objects: Sequence[dict[str, Any]]) -> None:
        """Learn names and types."""
        names = dict.fromkeys(name for value in objects for name in value)
        for name in names:
            known = self._types.get(name, pa.null())
            if known is not None:
                own = _infer([value.get(name) for value in objects])
                self._types[name] = None if own is None else _join(known, own)

    @property
    def schema(self) -> pa.Schema:
        """The columns, in the order in which their names first came."""
        return pa.schema([(name, self._type(name)) for name in self._types])

    def convert(self, objects: Sequence[dict[str, Any]]) -> list[pa.Array]:
        """The values of some objects by column.

        Raises:
            UnfitColumn: The schema had to be changed; begin again.
        """
        return [self._column(name, [value.get(name) for value in objects]) for name in self._types]

    def _type(self, name: str) -> pa.DataType:
        kind = self._types[name]
        return pa.string() if kind is None or pa.types.is_null(kind) else kind

    def _column(self, name: str, values: list[Any]) -> pa.Array:
        if self._types[name] is None:
            texts = [None if v is None else json.dumps(v, ensure_ascii=False) for v in values]
            return pa.array(texts, pa.string())
        try:
            return pa.array(values, self._type(name))
        except (pa.ArrowException, OverflowError):
            self._types[name] = None
            raise UnfitColumn(name) from None


def _infer(values: Sequence[Any]) -> pa.DataType | None:
    """The type of JSON values; ``None`` if there is none for all.

    Arrow's own inference takes ``true`` for 1 where a fraction came before it.
    """
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return pa.null()
    if len(kinds) == 1 and (simple := _SIMPLE.get(*kinds)):
        return simple
    if kinds == {int, float}:
        return pa.float64()
    present = [value for value in values if value is not None]
    if kinds == {list}:
        inner = _infer([item for value in present for item in value])
        return None if inner is None else pa.list_(inner)
    if kinds == {dict}:
        names = dict.fromkeys(name for value in present for name in value)
        fields = {name: _infer([value.get(name) for value in present]) for name in names}
        # Parquet has no place for an object without fields.
        return pa.struct(fields) if fields and None not in fields.values() else None
    return None


def _join(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    schemas = [pa.schema([("", kind)]) for kind in (first, second)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
