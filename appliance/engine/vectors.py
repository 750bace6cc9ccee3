# SPDX-License-Identifier: Apache-2.0
"""What happens to finished vectors for one request. No torch.

The small number formats are those of sentence-transformers' ``quantize_embeddings``, value for
value (https://sbert.net/examples/sentence_transformer/applications/embedding-quantization/):

- ``uint8``: each dimension's range is split into 255 steps; a value becomes the number of whole
  steps above the range's start, held to 0 .. 255. ``int8``: the same less 128.
- ``ubinary``: a bit for each dimension, set where the value is above zero; eight to a byte, the
  first dimension in the highest bit, the last byte filled up with zeros. ``binary``: the same less
  128, so that it fits into int8.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from appliance.engine.types import FloatMatrix, OutputDtype, Vectors

__all__ = ["finish_vectors", "ranges_of"]

STEPS = 255
SIGN_BIT = np.uint8(0x80)
"""Turned over in a uint8, it makes the int8 that is 128 less."""


def finish_vectors(
    vectors: FloatMatrix,
    *,
    dimensions: int | None,
    normalize: bool,
    output_dtype: OutputDtype = "float",
    ranges: FloatMatrix | None = None,
) -> Vectors:
    """Give vectors the length that was asked for, in both senses, and the number format.

    Args:
        vectors: float32, shape ``[texts, dimension]``.
        dimensions: Leading values to keep.
        normalize: Scale to unit length, after the cut.
        output_dtype: What the values become, after both.
        ranges: For ``int8`` and ``uint8``: float32, shape ``[2, dimensions]``, least and greatest
            value of each dimension. Values outside count as its ends.

    Returns:
        C-contiguous; a copy where anything had to change. float32, int8 or uint8; shape
        ``[texts, dimensions]``, or ``[texts, ceil(dimensions / 8)]`` for the binary formats.
    """
    finished = _scaled(vectors, dimensions, normalize)
    if output_dtype == "float":
        return finished
    if output_dtype in ("binary", "ubinary"):
        unsigned = np.packbits(finished > 0, axis=-1)
    else:
        assert ranges is not None
        unsigned = _steps(finished, ranges)
    signed = output_dtype in ("int8", "binary")
    return (unsigned ^ SIGN_BIT).view(np.int8) if signed else unsigned


def ranges_of(vectors: FloatMatrix, *, dimensions: int | None, normalize: bool) -> FloatMatrix:
    """Find the range of each dimension, after cut and scaling.

    Args:
        vectors: float32, shape ``[texts, dimension]``.
        dimensions: As for :func:`finish_vectors`.
        normalize: As for :func:`finish_vectors`.

    Returns:
        float32, shape ``[2, dimensions]``: least and greatest values.
    """
    finished = _scaled(vectors, dimensions, normalize)
    return np.stack((finished.min(axis=0), finished.max(axis=0)))


def _scaled(vectors: FloatMatrix, dimensions: int | None, normalize: bool) -> FloatMatrix:
    if dimensions is not None and dimensions < vectors.shape[1]:
        vectors = vectors[:, :dimensions]
    if normalize:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.maximum(norms, np.float32(1e-12))
    return np.ascontiguousarray(vectors)


def _steps(vectors: FloatMatrix, ranges: FloatMatrix) -> npt.NDArray[np.uint8]:
    starts, ends = ranges
    with np.errstate(over="ignore"):  # of a tiny step: far outside, whatever the number
        step = (ends - starts) / np.float32(STEPS)
        step[step == 0] = 1  # the range of a dimension that never changes
        steps: FloatMatrix = np.floor((vectors - starts) / step)
    return steps.clip(0, STEPS).astype(np.uint8)
