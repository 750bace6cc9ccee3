# SPDX-License-Identifier: Apache-2.0
"""Answers as they travel: bytes of JSON, written row by row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from appliance.engine.types import FloatMatrix
from compat.rendering import render_numbers
from compat.tei.answers import TeiPrediction, TeiRank

__all__ = ["in_list", "predictions", "ranks"]

_encoder = msgspec.json.Encoder()


def in_list(parts: Iterable[bytes | msgspec.Raw]) -> bytes:
    """A list of what is JSON already."""
    return b"[" + b",".join(map(bytes, parts)) + b"]"


def predictions(scores: npt.NDArray[np.float32], labels: Sequence[str]) -> bytes:
    """The labels of one input, the best first.

    Args:
        scores: float32, shape ``[labels]``.
        labels: Their names.
    """
    written = render_numbers(scores)
    return _encoder.encode([TeiPrediction(written[n], labels[n]) for n in _best_first(scores)])


def ranks(rows: FloatMatrix, texts: Sequence[str] | None) -> bytes:
    """The texts of one query, the best first.

    Args:
        rows: float32, shape ``[texts, 1]``.
        texts: The texts, if they are repeated.
    """
    scores = rows[:, 0]
    written = render_numbers(scores)
    return _encoder.encode(
        [TeiRank(n, written[n], None if texts is None else texts[n]) for n in _best_first(scores)]
    )


def _best_first(scores: npt.NDArray[np.float32]) -> list[int]:
    """Positions of the scores; of equal ones the last comes first, as in TEI."""
    order: list[int] = np.argsort(scores, kind="stable")[::-1].tolist()
    return order
