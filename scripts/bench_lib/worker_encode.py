# SPDX-License-Identifier: Apache-2.0
"""What the worker's tasks that make vectors have in common."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["RUN_AT_A_TIME", "Encoder", "encoded"]

RUN_AT_A_TIME = 32
"""Texts of a batch, sentence-transformers' own default."""


class Encoder(Protocol):
    """Turns texts into vectors, sorted by length or in their order."""

    def encode(self, texts: Sequence[str], *, sort: bool) -> NDArray[np.float32]: ...


def encoded(encoder: Encoder, request: dict[str, Any]) -> dict[str, Any]:
    """Time an encoder, and pack its vectors once the clock has stopped."""
    start = time.perf_counter()
    vectors = encoder.encode(request["texts"], sort=request["sort"])
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "vectors": base64.b64encode(vectors.astype("<f4").tobytes()).decode(),
    }
