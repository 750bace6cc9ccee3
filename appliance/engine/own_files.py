# SPDX-License-Identifier: Apache-2.0
"""Weights in a model's own files that are the same, bit for bit, as those it computes with.

Nothing has to be written to put such weights away: they are mapped from where they came from.
transformers gives many of them other names than the files do, splits some and converts others, so
names only say where to look first. The proof is the content.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from safetensors import SafetensorError, safe_open

from appliance.engine.backend import WeightsLost

__all__ = ["OwnFiles", "Place"]

_SAMPLE_BYTES = 4096
"""Compared before the whole, so that layers of one shape are told apart without reading them."""


class Place(NamedTuple):
    """A tensor in a file."""

    file: Path
    key: str


class _Identity(NamedTuple):
    """What changes when a file is written or exchanged."""

    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, file: Path) -> _Identity:
        stat = file.stat()
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


class OwnFiles:
    """The safetensors files of a model.

    Args:
        folders: Where they are.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = tuple(dict.fromkeys(folders))
        self._identities: dict[Path, _Identity] = {}

    @property
    def are_unchanged(self) -> bool:
        """Whether the files in which weights were found are still those."""
        return not any(_fault(file, identity) for file, identity in self._identities.items())

    @torch.no_grad()
    def find(self, names: Iterable[str], weights: Iterable[torch.Tensor]) -> list[Place | None]:
        """Look for tensors.

        Args:
            names: What the tensors are called in the loaded model.
            weights: Row-major, on the host; taken one at a time.

        Returns:
            For each a place where the same is written, or ``None``.
        """
        self._identities = {}
        with _Index(self._folders) as index:
            places = [index.find(*pair) for pair in zip(names, weights, strict=True)]
        used = {place.file for place in places if place is not None}
        self._identities = {file: index.identities[file] for file in used}
        # A file that was written to while it was compared proves nothing.
        changed = {file for file in used if _fault(file, self._identities[file])}
        for file in changed:
            del self._identities[file]
        return [None if place is None or place.file in changed else place for place in places]

    def map(self, places: Iterable[Place]) -> list[torch.Tensor]:
        """Tensors that were found, as views of the files.

        Raises:
            WeightsLost: A file is gone, or not the same any more.
        """
        places = list(places)
        found: dict[Place, torch.Tensor] = {}
        for file in {place.file for place in places}:
            self._check(file)
            keys = {place.key for place in places if place.file == file}
            try:
                with safe_open(file, framework="pt") as opened:
                    found |= {Place(file, key): opened.get_tensor(key) for key in keys}
            except (OSError, SafetensorError) as error:
                raise WeightsLost(f"{file} cannot be read any more: {error}") from error
            self._check(file)  # it may have been exchanged just before it was opened
        return [found[place] for place in places]

    def _check(self, file: Path) -> None:
        if fault := _fault(file, self._identities[file]):
            raise WeightsLost(f"{file} {fault} since the model was loaded from it")


def _fault(file: Path, identity: _Identity) -> str:
    try:
        return "" if _Identity.of(file) == identity else "has changed"
    except OSError:
        return "has gone"


class _Index:
    """All tensors of some files, by dtype and shape. Open while it is used as a context."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.identities: dict[Path, _Identity] = {}
        self._places: dict[tuple[str, tuple[int, ...]], list[Place]] = {}
        self._open: dict[Path, Any] = {}
        for file in (file for folder in folders for file in sorted(folder.glob("*.safetensors"))):
            try:
                self.identities[file] = _Identity.of(file)
                for key, dtype, shape in _entries(file):
                    self._places.setdefault((dtype, shape), []).append(Place(file, key))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # not a file that this model was loaded from

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.clear()

    def find(self, name: str, weights: torch.Tensor) -> Place | None:
        likely = self._places.get((_DTYPES.get(weights.dtype, ""), tuple(weights.shape)), [])
        for place in sorted(likely, key=lambda place: -_parts_in_common(name, place.key)):
            with suppress(OSError, SafetensorError):  # it has just been exchanged, say
                if _are_same(weights, self._read(place)):
                    return place
        return None

    def _read(self, place: Place) -> torch.Tensor:
        if place.file not in self._open:
            self._open[place.file] = safe_open(place.file, framework="pt")
        tensor: torch.Tensor = self._open[place.file].get_tensor(place.key)
        return tensor


_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
"""The format's names: https://huggingface.co/docs/safetensors/index#format."""


def _entries(file: Path) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, dtype and shape of each tensor, by the file's header alone."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > file.stat().st_size:
            raise ValueError("no safetensors file")
        header = json.loads(opened.read(length))
    for key, entry in header.items():
        if key != "__metadata__":
            yield key, entry["dtype"], tuple(entry["shape"])


def _parts_in_common(name: str, key: str) -> int:
    """Parts of two dotted names that agree, counted from the end."""
    common = 0
    for ours, theirs in zip(reversed(name.split(".")), reversed(key.split(".")), strict=False):
        if ours != theirs:
            break
        common += 1
    return common


def _are_same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    # As integers: numbers that are equal may differ in bits, as zeros do.
    ours, theirs = ours.reshape(-1).view(torch.uint8), theirs.reshape(-1).view(torch.uint8)
    sample = slice(_SAMPLE_BYTES)
    return torch.equal(ours[sample], theirs[sample]) and torch.equal(ours, theirs)
