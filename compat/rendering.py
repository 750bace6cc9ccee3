# SPDX-License-Identifier: Apache-2.0
"""Answers as they travel: vectors as numbers or as base64, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from appliance.engine.service import Engine
from appliance.engine.types import SparseRow, Timings

__all__ = [
    "off_the_loop",
    "render_numbers",
    "render_rows",
    "render_sparse",
    "render_vector",
    "server_timing",
]

_encoder = msgspec.json.Encoder()


class Written(Protocol):
    """An answer of the engine's, or of several as one."""

    @property
    def timings(self) -> Timings:
        """Where the time went."""

    @property
    def numbers(self) -> int:
        """Numbers to write."""


INLINE_NUMBERS = 8192
"""Numbers that are encoded on the event loop itself: well under a millisecond."""


def render_vector(vector: npt.NDArray[Any], as_base64: bool) -> memoryview | msgspec.Raw:
    """Prepare one vector for msgspec's encoder, without a Python object for any number.

    Args:
        vector: One axis, C-contiguous; float32, int8 or uint8.
        as_base64: Give the values' bytes, which the encoder writes as base64: little-endian
            whatever the machine. Else a list of JSON numbers: integers, where the values are.
    """
    if as_base64:
        little_endian = vector.dtype.newbyteorder("<")
        return vector.astype(little_endian, copy=False).data.cast("B")
    return msgspec.Raw(orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY))


def render_numbers(vector: npt.NDArray[Any]) -> list[msgspec.Raw]:
    """Write each number of a vector by itself, as in :func:`render_vector`."""
    if not vector.size:
        return []
    written = orjson.dumps(np.ascontiguousarray(vector), option=orjson.OPT_SERIALIZE_NUMPY)
    return [msgspec.Raw(number) for number in written[1:-1].split(b",")]


def render_rows(vectors: npt.NDArray[Any], as_base64: bool = False) -> bytes:
    """Write vectors as a JSON list, row by row, so that other threads get their turn in between.

    Args:
        vectors: Two axes; a row as for :func:`render_vector`.
        as_base64: As there.
    """
    return (
        b"[" + b",".join(_encoder.encode(render_vector(row, as_base64)) for row in vectors) + b"]"
    )


def render_sparse(row: SparseRow) -> msgspec.Raw:
    """Write the words that count for one text: ``[{"index":7,"value":0.5}]``.

    As in :func:`render_vector`, no number becomes a Python object.
    """
    if not row.indices.size:
        return msgspec.Raw(b"[]")
    written = [
        orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
        for numbers in (row.indices, row.values)
    ]
    words = [b'{"index":%b,"value":%b}' % pair for pair in zip(*written, strict=True)]
    return msgspec.Raw(b"[" + b",".join(words) + b"]")


async def off_the_loop(engine: Engine, result: Written, render: Callable[[], bytes]) -> bytes:
    """Write an answer; a large one on another thread, so that the event loop stays free."""
    timings = result.timings
    timings.began_to_encode = time.perf_counter()
    is_small = result.numbers <= INLINE_NUMBERS
    answer = render() if is_small else await engine.in_background(render)
    timings.encode = time.perf_counter() - timings.began_to_encode
    return answer


def server_timing(timings: Timings) -> str:
    """Where the time went, in milliseconds (https://www.w3.org/TR/server-timing/)."""
    parts = {name: getattr(timings, name) for name in ("tokenize", "queue", "forward", "encode")}
    return ", ".join(f"{name};dur={seconds * 1000:.2f}" for name, seconds in parts.items())
