# SPDX-License-Identifier: Apache-2.0
"""Putting one loaded model's weights away, and bringing them back bit for bit.

The modules stay as they are; only the memory behind their tensors goes. Weights never change after
the warm-up, so what was once put away is put away for good: the second time, the device's copy is
only dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from appliance.engine.backend import Parking, ParkingFailed
from appliance.engine.blocks import CudaLink, HostBlock, Layout, Link, by_device
from appliance.engine.own_files import OwnFiles, Place
from appliance.engine.scratch import return_free_memory, telling_out_of_memory
from appliance.engine.slots import Slot, find_weights
from appliance.engine.swapping import SwapFile

__all__ = ["Weights"]

_WORTH_A_FILE = 0.01
"""Share of the weights. What is not in the model's own files and is less, such as a row of numbers
that is computed when the model is built, stays where it is."""


class _Shelf(Protocol):
    """Where weights are put away."""

    slots: Sequence[Slot]

    @property
    def nbytes(self) -> int:
        """What it holds of its kind of memory."""

    def put(self) -> None:
        """Take a copy of the slots' weights, if it has none.

        Raises:
            ParkingFailed: There is no room.
        """

    def fetch(self) -> list[torch.Tensor]:
        """The weights of each slot, on its device."""

    def close(self) -> None:
        """Give up the copy."""


class Weights:
    """The weights of a loaded model.

    Args:
        roots: Its modules, warmed up.
        folders: Where its own files are.
        link: The way to the devices.

    Attributes:
        sizes: Bytes that they take of each device when they are there.
        is_parked: Whether they are put away.
    """

    def __init__(
        self, roots: Iterable[nn.Module], folders: Iterable[Path] = (), link: Link | None = None
    ) -> None:
        self.is_parked = False
        self._link = link or CudaLink()
        self._own_files = OwnFiles(folders)
        self._slots = find_weights(*roots)
        self._shelves: dict[str, _Shelf] = {}
        self._shelf: _Shelf | None = None
        self.sizes = _bytes_by_device(self._slots)

    @property
    def parked_bytes(self) -> Mapping[str, int]:
        """Bytes that copies of them take of each tier; a copy is kept when the weights are back."""
        return {tier: shelf.nbytes for tier, shelf in self._shelves.items()}

    def kept(self, keep_bytes: int) -> Mapping[str, int]:
        """Bytes of each device that stay taken while they are put away."""
        kept = [slot for slot in self._slots if slot.nbytes <= keep_bytes]
        return _bytes_by_device(kept)

    def park(self, parking: Parking) -> None:
        """Put them away; see :meth:`Backend.park`. Which of them stay is settled the first time."""
        if self.is_parked:
            return
        is_first = parking.tier not in self._shelves
        shelf = self._shelves.get(parking.tier) or self._new_shelf(parking)
        try:
            shelf.put()
        except BaseException:
            if is_first:
                shelf.close()
            raise
        self._shelves[parking.tier] = self._shelf = shelf
        self.is_parked = True
        self._drop(shelf.slots)
        if is_first:
            # From now on they come in blocks from a pool of their own, which is kept for the next.
            self._give_back()
        return_free_memory()

    def restore(self) -> None:
        """Bring them back; see :meth:`Backend.restore`."""
        if self._shelf is None:
            return
        try:
            with telling_out_of_memory(), torch.no_grad():
                for slot, weights in zip(self._shelf.slots, self._shelf.fetch(), strict=True):
                    slot.fill(weights)
        except BaseException:
            self._drop(self._shelf.slots)
            raise
        self._shelf, self.is_parked = None, False

    def close(self) -> None:
        """Give up the weights and all copies of them."""
        self._drop(self._slots)
        for shelf in self._shelves.values():
            shelf.close()
        self._shelves, self._shelf, self.is_parked = {}, None, True
        self._give_back()
        self._slots = []
        return_free_memory()

    def _new_shelf(self, parking: Parking) -> _Shelf:
        slots = [slot for slot in self._slots if slot.nbytes > parking.keep_bytes]
        if parking.tier == "disk":
            if parking.folder is None:
                raise ParkingFailed("no folder is named for weights that have to be written")
            return _DiskShelf(slots, self._own_files, SwapFile(parking.folder), self._link)
        apart = [slot for slot in slots if self._link.is_apart(slot.device)]
        if not apart:
            raise ParkingFailed("its weights are in the host's RAM already")
        return _HostShelf(apart, self._link)

    def _give_back(self) -> None:
        if any(self._link.is_apart(slot.device) for slot in self._slots):
            self._link.give_back()

    @staticmethod
    @torch.no_grad()
    def _drop(slots: Iterable[Slot]) -> None:
        for slot in slots:
            slot.drop()


def _bytes_by_device(slots: Sequence[Slot]) -> Mapping[str, int]:
    return {str(device): _size(group) for device, group in by_device(slots).items()}


def _size(slots: Iterable[Slot]) -> int:
    return sum(slot.nbytes for slot in slots)


class _HostShelf:
    """Page-locked RAM: one block for each device."""

    def __init__(self, slots: Sequence[Slot], link: Link) -> None:
        groups = by_device(slots)
        self.slots: Sequence[Slot] = [slot for group in groups.values() for slot in group]
        self._link = link
        self._groups = [(device, group, Layout(group)) for device, group in groups.items()]
        self._blocks: list[HostBlock] = []

    @property
    def nbytes(self) -> int:
        return sum(block.tensor.nbytes for block in self._blocks)

    def put(self) -> None:
        if self._blocks:
            return
        try:
            for device, _, layout in self._groups:
                self._blocks.append(HostBlock(layout.nbytes, device, self._link))
        except (MemoryError, RuntimeError) as error:
            self.close()
            raise ParkingFailed(f"the host has no RAM for its weights: {error}") from error
        for (device, group, layout), block in zip(self._groups, self._blocks, strict=True):
            with self._link.queue(device), torch.no_grad():
                for slot, place in zip(group, layout.cut(block.tensor), strict=True):
                    place.copy_(slot.read(), non_blocking=True)

    def fetch(self) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        for (device, _, layout), host in zip(self._groups, self._blocks, strict=True):
            with self._link.queue(device):
                block = torch.empty(layout.nbytes, dtype=torch.uint8, device=device)
                block.copy_(host.tensor, non_blocking=True)
            found += layout.cut(block)
        return found

    def close(self) -> None:
        for block in self._blocks:
            block.free()
        self._blocks = []


class _DiskShelf:
    """The model's own files, and one written file for all that is not in them."""

    def __init__(self, slots: Sequence[Slot], own: OwnFiles, file: SwapFile, link: Link) -> None:
        self._all = [slot for group in by_device(slots).values() for slot in group]
        self.slots: Sequence[Slot] = ()
        self._own = own
        self._file = file
        self._link = link
        self._places: list[Place | None] = []
        self._written: list[Slot] = []

    @property
    def nbytes(self) -> int:
        return self._file.nbytes

    def put(self) -> None:
        if self._places and self._own.are_unchanged and self._file.is_whole:
            return
        self._places = []
        names = (slot.name for slot in self._all)
        places = self._own.find(names, (slot.read().cpu() for slot in self._all))
        pairs = list(zip(self._all, places, strict=True))
        missing = [slot for slot, place in pairs if place is None]
        if _size(missing) < _WORTH_A_FILE * _size(self._all):
            pairs = [(slot, place) for slot, place in pairs if place is not None]
            missing = []
        self._write(missing)
        self.slots = [slot for slot, _ in pairs]
        self._places = [place for _, place in pairs]

    def _write(self, slots: list[Slot]) -> None:
        self._written = slots
        if slots:
            layout = Layout(slots)
            tensors = (slot.read().cpu() for slot in slots)
            self._file.write(layout.offsets, tensors, layout.nbytes)

    def fetch(self) -> list[torch.Tensor]:
        mapped = self._map()
        groups = by_device(self.slots)
        if not any(self._link.is_apart(device) for device in groups):
            return list(mapped)
        found: list[torch.Tensor] = []
        for device, group in groups.items():
            layout = Layout(group)
            with self._link.queue(device):
                block = torch.empty(layout.nbytes, dtype=torch.uint8, device=device)
                places = layout.cut(block)
                for place in places:
                    place.copy_(next(mapped))
            found += places
        return found

    def _map(self) -> Iterator[torch.Tensor]:
        """The weights of each slot, as views of files."""
        own = self._own.map(place for place in self._places if place is not None)
        written = Layout(self._written).cut(self._file.map()) if self._written else []
        from_own, from_written = iter(own), iter(written)
        return iter([next(from_own if place else from_written) for place in self._places])

    def close(self) -> None:
        self._file.delete()
