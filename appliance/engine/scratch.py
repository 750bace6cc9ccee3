# SPDX-License-Identifier: Apache-2.0
"""What computing takes of a device's memory, and what is done where that is too much."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from appliance.engine.backend import DeviceOutOfMemory

__all__ = ["MOVES", "Moves", "Scratch", "return_free_memory", "telling_out_of_memory"]


@contextmanager
def telling_out_of_memory() -> Iterator[None]:
    """Raise :class:`DeviceOutOfMemory` for each of the errors that torch has for it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        # What other batches left behind in odd sizes may be all that is missing.
        torch.cuda.empty_cache()
        raise DeviceOutOfMemory(str(error)) from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        raise DeviceOutOfMemory(str(error)) from error


def return_free_memory() -> None:
    """Have the C library give memory back to the system that it keeps for reuse."""
    # A call of glibc's; others have no such need.
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


class Moves:
    """Counts the moves of weights, so that what they take is not counted as a batch's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = self._under_way = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """A move, for as long as the block runs."""
        with self._lock:
            self._begun += 1
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1

    @property
    def still(self) -> int | None:
        """The same number for as long as there is no move; ``None`` during one."""
        with self._lock:
            return None if self._under_way else self._begun


MOVES = Moves()
"""Those of this process."""


class Scratch:
    """What a model's batches take of a GPU beside its weights: estimated, then measured.

    Args:
        device: The device; on a CPU nothing is counted.
        model: The transformer.
        more: Bytes that are known to come on top.

    Attributes:
        nbytes: What a full batch takes, as far as is known.
    """

    def __init__(self, device: torch.device, model: Any, more: int = 0) -> None:
        self.nbytes = 0
        self._device = device
        self._more = more
        self._budget = 0
        self._largest = 0
        hidden = getattr(model.config, "hidden_size", None)
        hidden = hidden or model.get_input_embeddings().embedding_dim
        inner = getattr(model.config, "intermediate_size", None) or 4 * hidden
        # The most that lives at once: a layer's input, its norm in float32, queries, keys, values
        # and attention's result; or gate, projection and product of a gated layer.
        self._bytes_of_a_token = (8 * hidden + 3 * inner) * model.dtype.itemsize

    def expect(self, batch_tokens: int) -> None:
        """Estimate what batches of a size will take."""
        self._budget = batch_tokens
        if self._device.type == "cuda":
            self.nbytes = batch_tokens * self._bytes_of_a_token + self._more

    @contextmanager
    def measuring(self, tokens: int) -> Iterator[None]:
        """Measure what a batch takes while the block runs, if it is larger than all before."""
        if self._device.type != "cuda" or tokens <= self._largest:
            yield
            return
        before = MOVES.still
        torch.cuda.reset_peak_memory_stats(self._device)
        allocated = torch.cuda.memory_allocated(self._device)
        yield
        peak = torch.cuda.max_memory_allocated(self._device) - allocated
        if before is not None and before == MOVES.still:
            self.note(tokens, peak)

    def note(self, tokens: int, peak: int) -> None:
        """Correct the estimate by what a batch took."""
        self._largest = tokens
        if 8 * tokens < self._budget:
            # Of so few tokens most is the libraries' own, which does not grow with a batch.
            self.nbytes = max(self.nbytes, peak)
        else:
            self.nbytes = int(peak * max(1.0, self._budget / tokens))
