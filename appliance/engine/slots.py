# SPDX-License-Identifier: Apache-2.0
"""The tensors that hold a model's weights, wherever its modules keep them.

Modules keep weights as parameters, as buffers and in plain attributes; bitsandbytes keeps scales in
objects of its own beside a weight; accelerate's hooks know some tensors too. All are found by one
walk. Tensors that share memory are one slot, so that they are moved once and still share it when
they are back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import nn

from appliance.engine.prepack import PrepackedLinear

__all__ = ["Slot", "bits", "find_weights"]

# Where torch's own allocator lets tensors begin. By it, matrix kernels choose how to sum up.
_ALIGNMENT = 64
_LIBRARIES = ("accelerate", "bitsandbytes")
"""Packages whose objects are searched for tensors, as modules are."""


class Slot(Protocol):
    """A place of weights that can be emptied and filled again."""

    name: str
    """Dotted path in the module tree: often, but not always, the name in the model's files."""
    dtype: torch.dtype
    shape: torch.Size
    device: torch.device
    nbytes: int

    def read(self) -> torch.Tensor:
        """The weights, row-major, on their device. May share the slot's memory."""

    def drop(self) -> None:
        """Give up the memory."""

    def fill(self, weights: torch.Tensor) -> None:
        """Take the weights back: row-major, of the same dtype and shape, on the same device.

        The tensor becomes the slot's own, without a copy where that is possible.
        """


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """A row-major tensor's memory as uint8, shape ``[bytes]``."""
    return tensor.reshape(-1).view(torch.uint8)


class _TensorSlot:
    """Tensors that share memory; whoever has a reference to one finds the weights in it again."""

    def __init__(self, name: str, tensor: torch.Tensor) -> None:
        self.name = name
        self.dtype = tensor.dtype
        self.shape = tensor.shape
        self.device = tensor.device
        self.nbytes = tensor.nbytes
        self._stride = tensor.stride()
        self._is_contiguous = tensor.is_contiguous()
        self._is_aligned = tensor.data_ptr() % _ALIGNMENT == 0
        self._tensors = [tensor]

    def add(self, tensor: torch.Tensor) -> None:
        """Take in another tensor that shares the memory."""
        self._tensors.append(tensor)

    def read(self) -> torch.Tensor:
        return self._tensors[0].detach().as_subclass(torch.Tensor).contiguous()

    def drop(self) -> None:
        self._point_to(torch.empty(0, dtype=self.dtype, device=self.device))

    def fill(self, weights: torch.Tensor) -> None:
        if not self._is_contiguous:
            strided = torch.empty_strided(
                self.shape, self._stride, dtype=self.dtype, device=self.device
            )
            weights = strided.copy_(weights)
        elif self._is_aligned and weights.data_ptr() % _ALIGNMENT:
            weights = weights.clone()  # so that results are the same to the last bit
        self._point_to(weights)

    def _point_to(self, weights: torch.Tensor) -> None:
        for tensor in self._tensors:
            tensor.data = weights


class _PrepackedSlot:
    """The weight of a layer that lies in memory as the CPU's kernels want it."""

    def __init__(self, name: str, layer: PrepackedLinear) -> None:
        self.name = name
        self.dtype = layer.dtype
        self.shape = torch.Size((layer.out_features, layer.in_features))
        self.device = torch.device("cpu")
        self.nbytes = self.shape.numel() * self.dtype.itemsize
        self._layer = layer

    def read(self) -> torch.Tensor:
        return self._layer.unpacked()

    def drop(self) -> None:
        self._layer.drop()

    def fill(self, weights: torch.Tensor) -> None:
        self._layer.pack(weights)


def find_weights(*roots: nn.Module) -> list[Slot]:
    """Find all weights that lie on a device.

    Left out are tensors that were made under ``inference_mode``, such as a cache of rotary angles
    that a forward pass may exchange for a larger one, and those whose elements overlap.

    Args:
        roots: Frozen modules, warmed up: nothing about their weights changes any more.
    """
    prepacked: list[Slot] = []
    plain: dict[tuple[Any, ...], _TensorSlot] = {}
    seen: set[int] = set()
    for root in roots:
        for path, module in root.named_modules():
            if isinstance(module, PrepackedLinear) and id(module) not in seen:
                prepacked.append(_PrepackedSlot(f"{path}.weight", module))
            for name, tensor in _tensors(path, vars(module), seen):
                if not _is_movable(tensor):
                    continue
                key = (tensor.device, tensor.data_ptr(), tensor.dtype, *_geometry(tensor))
                if key in plain:
                    plain[key].add(tensor)
                else:
                    plain[key] = _TensorSlot(name, tensor)
            seen.add(id(module))
    return [*plain.values(), *prepacked]


def _tensors(name: str, value: object, seen: set[int]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors in a value, each once, with dotted names; not those of modules in it."""
    inner: dict[Any, Any] | None = None
    if isinstance(value, torch.Tensor) or type(value).__module__.startswith(_LIBRARIES):
        inner = getattr(value, "__dict__", {})
    elif isinstance(value, dict):
        inner = value
    elif isinstance(value, list | tuple):
        inner = dict(enumerate(value))
    if inner is None or isinstance(value, nn.Module) or id(value) in seen:
        return
    seen.add(id(value))
    if type(value).__name__ == "QuantState":
        _leave_inference_mode(value)
    if isinstance(value, torch.Tensor):
        yield name, value
    for key, part in list(inner.items()):
        # The dicts in which modules keep parameters and buffers are no part of those' names.
        is_shelf = key in ("_parameters", "_buffers")
        yield from _tensors(name if is_shelf else f"{name}.{str(key).lstrip('_')}", part, seen)


def _leave_inference_mode(state: object) -> None:
    """Make ordinary tensors of those that bitsandbytes made in its first forward pass."""
    for name, tensor in vars(state).items():
        if isinstance(tensor, torch.Tensor) and tensor.is_inference():
            setattr(state, name, tensor.clone())


def _is_movable(tensor: torch.Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        return False
    return tensor.numel() > 0 and not tensor.is_inference() and _is_free_of_overlap(tensor)


def _is_free_of_overlap(tensor: torch.Tensor) -> bool:
    reached = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride < reached:
                return False
            reached = stride * size
    return True


def _geometry(tensor: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(tensor.shape), tensor.stride()
