# SPDX-License-Identifier: Apache-2.0
"""Many tensors in one block of memory, and copies of whole blocks between host and device.

A copy of one large block runs at the full rate of the link; copies of hundreds of small tensors do
not. They run on a stream of their own, beside the batches of other models.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import accumulate
from typing import Any

import torch

from appliance.engine.scratch import MOVES
from appliance.engine.slots import Slot

__all__ = ["CudaLink", "HostBlock", "Layout", "Link", "by_device"]

ALIGNMENT = 256
"""Bytes at whose multiples tensors begin: what CUDA's own allocator keeps to."""


_PORTABLE = 1  # cudaHostRegisterPortable


class Layout:
    """Where each of several tensors lies in one block.

    Attributes:
        offsets: First byte of each.
        nbytes: Size of the block.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = tuple(slots)
        sizes = (-(-slot.nbytes // ALIGNMENT) * ALIGNMENT for slot in slots)
        *offsets, self.nbytes = accumulate(sizes, initial=0)
        self.offsets: list[int] = offsets

    def cut(self, block: torch.Tensor) -> list[torch.Tensor]:
        """The tensors in a block, without a copy.

        Args:
            block: uint8, shape ``[nbytes]``, on any device.
        """
        return [
            block[offset : offset + slot.nbytes].view(slot.dtype).view(slot.shape)
            for offset, slot in zip(self.offsets, self._slots, strict=True)
        ]


def by_device(slots: Sequence[Slot]) -> dict[torch.device, list[Slot]]:
    """Slots in groups that can share a block."""
    groups: dict[torch.device, list[Slot]] = {}
    for slot in slots:
        groups.setdefault(slot.device, []).append(slot)
    return groups


class Link:
    """The way between the host and its devices, where a device is the host itself."""

    def is_apart(self, device: torch.device) -> bool:
        """Whether a device has memory of its own."""
        return device.type != "cpu"

    def lock(self, block: torch.Tensor, device: torch.device) -> bool:  # noqa: ARG002
        """Keep a block's pages in RAM, so that a device can read them by itself.

        Returns:
            Whether that could be done.
        """
        return False

    def unlock(self, block: torch.Tensor) -> None:
        """Undo :meth:`lock`."""

    def locked(self, nbytes: int) -> torch.Tensor:
        """A new block that is locked, and perhaps larger than asked for; uint8."""
        return torch.empty(nbytes, dtype=torch.uint8)

    @contextmanager
    def queue(self, device: torch.device) -> Iterator[None]:  # noqa: ARG002
        """Copies that are begun in the block are done at its end."""
        yield

    def give_back(self) -> None:
        """Hand device memory back that is kept for reuse."""


class CudaLink(Link):
    """The way to CUDA devices."""

    def lock(self, block: torch.Tensor, device: torch.device) -> bool:
        """See :meth:`Link.lock`."""
        with torch.cuda.device(device):
            # For all devices, as torch's own page-locked memory is.
            if int(_runtime().cudaHostRegister(block.data_ptr(), block.nbytes, _PORTABLE)) == 0:
                return True
            # The runtime remembers an error until someone asks, and torch asks after each kernel.
            with suppress(RuntimeError):
                torch.zeros(1, device=device)
        return False

    def unlock(self, block: torch.Tensor) -> None:
        """See :meth:`Link.unlock`."""
        _runtime().cudaHostUnregister(block.data_ptr())

    def locked(self, nbytes: int) -> torch.Tensor:
        """See :meth:`Link.locked`; torch rounds the size up to a power of two."""
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    @contextmanager
    def queue(self, device: torch.device) -> Iterator[None]:
        """See :meth:`Link.queue`.

        Memory that is taken in the block comes from a pool of its own: what the batches of the
        default stream give up is not handed out here while their kernels may still use it.
        """
        if device.type != "cuda":
            yield
            return
        stream = _stream(device)
        with MOVES.one():
            with torch.cuda.stream(stream):
                yield
            stream.synchronize()

    def give_back(self) -> None:
        """See :meth:`Link.give_back`."""
        torch.cuda.empty_cache()  # does nothing where CUDA was never used


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    # One for all models: torch keeps free memory by stream, and what one gives up serves the next.
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class HostBlock:
    """A page-locked block of host memory of exactly the size asked for, where that can be had.

    Args:
        nbytes: Its size.
        device: The device that will read it.
        link: The way there.

    Attributes:
        tensor: uint8, shape ``[nbytes]``.
    """

    def __init__(self, nbytes: int, device: torch.device, link: Link) -> None:
        # torch's own page-locked memory comes in powers of two, and is not given back when freed.
        self.tensor = torch.empty(nbytes, dtype=torch.uint8)
        if link.lock(self.tensor, device):
            # Pages have to be unlocked before they are freed, however this object ends.
            self._unlock = weakref.finalize(self, link.unlock, self.tensor)
        else:
            self.tensor = link.locked(nbytes)

    def free(self) -> None:
        """Give the memory back."""
        unlock: weakref.finalize[..., object] | None = getattr(self, "_unlock", None)
        if unlock is not None:
            unlock()
        self.tensor = torch.empty(0, dtype=torch.uint8)
