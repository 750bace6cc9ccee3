# SPDX-License-Identifier: Apache-2.0
"""What happens to finished vectors for one request. No torch."""

from __future__ import annotations

import numpy as np

from appliance.engine.types import FloatMatrix

__all__ = ["finish_vectors"]


def finish_vectors(vectors: FloatMatrix, *, dimensions: int | None, normalize: bool) -> FloatMatrix:
    """Give vectors the length that was asked for, in both senses.

    Args:
        vectors: float32, shape ``[texts, dimension]``.
        dimensions: Leading values to keep.
        normalize: Scale to unit length, after the cut.

    Returns:
        float32, C-contiguous; a copy where anything had to change.
    """
    if dimensions is not None and dimensions < vectors.shape[1]:
        vectors = vectors[:, :dimensions]
    if normalize:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.maximum(norms, np.float32(1e-12))
    return np.ascontiguousarray(vectors)
