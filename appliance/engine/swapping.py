# SPDX-License-Identifier: Apache-2.0
"""Files that weights are written to when the model's own files do not hold them."""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import torch
import xxhash

from appliance.durable import write_durably
from appliance.engine.backend import ParkingFailed, WeightsLost
from appliance.engine.slots import bits

__all__ = ["SwapFile"]

_READ_BYTES = 1 << 20


class SwapFile:
    """Tensors written to one file, as they lie in one block of memory.

    Args:
        folder: A folder that no other process writes to.

    Attributes:
        nbytes: Size of the file; 0 while there is none.
    """

    def __init__(self, folder: Path) -> None:
        self.nbytes = 0
        self._path = folder / f"{secrets.token_hex(8)}.weights"
        self._checksum = b""

    @property
    def is_whole(self) -> bool:
        """Whether the file is there, as far as can be seen without reading it."""
        try:
            return self.nbytes == self._path.stat().st_size
        except OSError:
            return not self.nbytes

    def write(self, offsets: Iterable[int], tensors: Iterable[torch.Tensor], nbytes: int) -> None:
        """Write it: whole and on the disk, or not at all.

        Args:
            offsets: Where each tensor begins, ascending.
            tensors: Row-major, on the host; taken one at a time.
            nbytes: Size of the file.

        Raises:
            ParkingFailed: It could not be written, for want of room for example.
        """
        checksum = xxhash.xxh3_128()
        try:
            with write_durably(self._path) as file:
                for piece in _pieces(offsets, tensors, nbytes):
                    file.write(piece)
                    checksum.update(piece)
        except OSError as error:
            raise ParkingFailed(
                f"{nbytes / 2**20:.3g} MiB of weights could not be written to {self._path.parent}:"
                f" {error.strerror or error}"
            ) from error
        self.nbytes, self._checksum = nbytes, checksum.digest()

    def map(self) -> torch.Tensor:
        """The file's content as uint8, shape ``[nbytes]``, mapped into memory and not copied.

        Raises:
            WeightsLost: It is gone, or not as it was written.
        """
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_size != self.nbytes:
                    raise WeightsLost(f"{self._path} is not as long as it was written")
                if _checksum(file) != self._checksum:
                    raise WeightsLost(f"{self._path} does not hold what was written: its checksum")
                # Private pages: whatever is written to the tensors, the file stays as it is.
                mapped = mmap.mmap(file.fileno(), self.nbytes, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise WeightsLost(f"{self._path} cannot be read: {error.strerror or error}") from error
        return torch.frombuffer(mapped, dtype=torch.uint8)

    def delete(self) -> None:
        """Remove it. What was mapped stays readable."""
        self.nbytes = 0
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def _pieces(
    offsets: Iterable[int], tensors: Iterable[torch.Tensor], nbytes: int
) -> Iterator[memoryview | bytes]:
    """What the file holds, from its first byte to its last."""
    end = 0
    for offset, tensor in zip(offsets, tensors, strict=True):
        yield bytes(offset - end)
        yield bits(tensor).numpy().data
        end = offset + tensor.nbytes
    yield bytes(nbytes - end)


def _checksum(file: BinaryIO) -> bytes:
    checksum = xxhash.xxh3_128()
    buffer = memoryview(bytearray(_READ_BYTES))
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        checksum.update(buffer[:count])
    return checksum.digest()
