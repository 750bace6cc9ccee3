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

from appliance.engine.types import FloatMatrix

__all__ = ["to_device", "to_host"]


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
