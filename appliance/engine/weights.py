# SPDX-License-Identifier: Apache-2.0
"""Weights in a folder: safetensors, or PyTorch's older format where that is allowed.

The older files are pickles. torch reads tensors from them and refuses all else; that guard has been
got round before, hence the setting.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from appliance.errors import ModelUnavailable

__all__ = ["SPARSE_HEAD", "check_weights", "read_weights", "safetensors_of"]

SAFE = "model.safetensors"
PICKLED = "pytorch_model.bin"
SPARSE_HEAD = "sparse_linear"
"""Name of BGE-M3's files beside the transformer's own."""
_POINTER = b"version https://git-lfs.github.com/spec/"
"""How the file begins that stands in git for a large one."""


def check_weights(folder: Path, *, pickles: bool) -> None:
    """Make sure that a transformer has weights that may be read, in one file or in several.

    Args:
        folder: Its folder.
        pickles: Whether the older format may be read.

    Raises:
        ModelUnavailable: It has none, or a file of them is broken.
    """
    if safe := safetensors_of(folder):
        for path in safe:
            _check_header(path)
        return
    found = any(folder.glob("pytorch_model*.bin"))
    if not (found and pickles):
        raise ModelUnavailable(f"it has no safetensors weights{_way_out(found=found)}")


def safetensors_of(folder: Path) -> list[Path]:
    """The files with a transformer's weights, by name."""
    return sorted(path for path in folder.glob("*.safetensors") if path.stem != SPARSE_HEAD)


def read_weights(
    folder: Path, *, pickles: bool, safe: str = SAFE, pickled: str = PICKLED
) -> dict[str, torch.Tensor]:
    """Read the weights of a module that has them in one file.

    Args:
        folder: The module's folder.
        pickles: Whether the older format may be read.
        safe: Name of the file.
        pickled: Name of the same in the older format.

    Raises:
        ModelUnavailable: Naming the file that is missing or broken.
    """
    is_safe, is_pickled = (folder / safe).is_file(), (folder / pickled).is_file()
    try:
        if is_safe:
            return load_file(folder / safe)
        if is_pickled and pickles:
            weights: dict[str, torch.Tensor] = torch.load(
                folder / pickled, map_location="cpu", weights_only=True
            )
            return weights
    except (SafetensorError, OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        name = safe if is_safe else pickled
        raise ModelUnavailable(f"{folder.name}/{name}: {error}") from error
    raise ModelUnavailable(f"{folder.name}/{safe} is missing{_way_out(found=is_pickled)}")


def _check_header(path: Path) -> None:
    """Name the file that is cut short or something else altogether; its tensors are not read."""
    try:
        with safe_open(path, framework="pt"):
            return
    except (SafetensorError, OSError) as error:
        with path.open("rb") as file:
            is_pointer = file.read(len(_POINTER)) == _POINTER
        reason = "it is a pointer to the weights; fetch them with: git lfs pull"
        told = reason if is_pointer else f"{error}; it may be cut short, copy or download it anew"
        raise ModelUnavailable(f"{path.name} cannot be read: {told}") from error


def _way_out(*, found: bool) -> str:
    if not found:
        return "; other formats can run code when they are read"
    return (
        f", only {PICKLED}, a format that can run code when it is read; set pickle_weights to true"
        " for authors you trust"
    )
