# SPDX-License-Identifier: Apache-2.0
"""Answers as they travel: vectors as numbers or as base64, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy.typing as npt
import orjson

from appliance.engine.service import Engine
from appliance.engine.types import Embedding, Timings

__all__ = ["off_the_loop", "render_vector", "server_timing"]

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


async def off_the_loop(engine: Engine, result: Embedding, render: Callable[[], bytes]) -> bytes:
    """Write an answer; a large one on another thread, so that the event loop stays free."""
    timings = result.timings
    timings.began_to_encode = time.perf_counter()
    answer = (
        render() if result.vectors.size <= INLINE_NUMBERS else await engine.in_background(render)
    )
    timings.encode = time.perf_counter() - timings.began_to_encode
    return answer


def server_timing(timings: Timings) -> str:
    """Where the time went, in milliseconds (https://www.w3.org/TR/server-timing/)."""
    parts = {name: getattr(timings, name) for name in ("tokenize", "queue", "forward", "encode")}
    return ", ".join(f"{name};dur={seconds * 1000:.2f}" for name, seconds in parts.items())
