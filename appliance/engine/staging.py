# SPDX-License-Identifier: Apache-2.0
"""Copies between the host and a device, beside the device's computing.

A copy between a GPU and page-locked memory is queued like a kernel, and the host waits for neither.
torch keeps page-locked blocks for reuse, and holds a block back until the copies that were queued
from it are done.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from appliance.engine.types import FloatMatrix, SparseRow

__all__ = ["sparse_to_host", "to_device", "to_host", "tokens_to_host"]


def to_device(device: torch.device, *arrays: npt.NDArray[np.integer]) -> list[torch.Tensor]:
    """Copy one-dimensional integer arrays to a device, in one piece.

    Returns:
        int64 tensors of the same lengths, views of one block.
    """
    lengths = [len(array) for array in arrays]
    block = torch.empty(sum(lengths), dtype=torch.int64, pin_memory=device.type == "cuda")
    np.concatenate(arrays, out=block.numpy())
    return list(block.to(device, non_blocking=True).split(lengths))


def to_host(vectors: torch.Tensor) -> Callable[[], FloatMatrix]:
    """Begin to copy vectors to the host.

    Args:
        vectors: float32, shape ``[texts, dimension]``.

    Returns:
        A function that waits for them.
    """
    if vectors.device.type != "cuda":
        result: FloatMatrix = vectors.cpu().numpy()
        return lambda: result
    staged = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
    staged.copy_(vectors, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(vectors.device))

    def wait() -> FloatMatrix:
        copied.synchronize()
        host: FloatMatrix = staged.numpy()
        return host

    return wait


def tokens_to_host(
    vectors: torch.Tensor, lengths: npt.NDArray[np.integer]
) -> Callable[[], list[FloatMatrix]]:
    """Begin to copy the vectors of tokens to the host.

    Args:
        vectors: float32, shape ``[tokens, dimension]``, texts end to end.
        lengths: Shape ``[texts]``: tokens of each.

    Returns:
        A function that waits for them, a matrix for each text.
    """
    wait = to_host(vectors)
    # Copied, so that one text does not hold on to the block of all.
    return lambda: [each.copy() for each in np.split(wait(), np.cumsum(lengths[:-1]))]


def sparse_to_host(values: torch.Tensor) -> Callable[[], list[SparseRow]]:
    """Begin to copy the values that are not zero to the host.

    Args:
        values: float32, shape ``[texts, words]``, none below zero; NaN counts as not zero.

    Returns:
        A function that waits for them, a row for each text.
    """
    if values.device.type != "cuda":
        rows = _sparse_rows(values)
        return lambda: rows
    made = torch.cuda.Event()
    made.record(torch.cuda.current_stream(values.device))

    def wait() -> list[SparseRow]:
        # How many there are only the device knows. On a stream of its own the host waits for this
        # batch alone, and not for the next one, which may have been queued already.
        stream = torch.cuda.Stream(values.device)
        stream.wait_event(made)
        with torch.inference_mode(), torch.cuda.stream(stream):
            return _sparse_rows(values)

    return wait


def _sparse_rows(values: torch.Tensor) -> list[SparseRow]:
    texts, words = values.nonzero(as_tuple=True)  # row by row, ascending in each
    found: FloatMatrix = values[texts, words].cpu().numpy()
    indices = words.int().cpu().numpy()
    ends = texts.bincount(minlength=len(values)).cumsum(0)[:-1].cpu().numpy()
    return [
        SparseRow(each.copy(), row.copy())
        for each, row in zip(np.split(indices, ends), np.split(found, ends), strict=True)
    ]
