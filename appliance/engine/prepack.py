# SPDX-License-Identifier: Apache-2.0
"""Linear layers whose weights lie in memory as the CPU's matrix kernels want them.

``torch.nn.Linear`` hands oneDNN or MKL a row-major matrix, which they rearrange at every call. The
operators that torch.compile uses on CPUs take weights that were rearranged once. On a short text,
where rearranging costs more than multiplying, this halves the time; on full batches it is about a
tenth. They also take the GELU behind a layer into the multiplication, while its rows are still in
the caches.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from transformers.activations import GELUActivation

__all__ = [
    "PrepackedLinear",
    "Replaced",
    "can_prepack",
    "prepack_linears",
    "put_back",
    "rounded_rows",
]

# Names that transformers gives a layer and the activation that its parent applies right behind it.
_ACTIVATED = (("dense", "intermediate_act_fn"), ("lin1", "activation"))


_LEADING_BITS = 5
_LARGEST_STEP = 16


def rounded_rows(rows: int) -> int:
    """Rows to compute where so many are wanted.

    oneDNN makes kernels for each number of rows that it sees and keeps those of a thousand, a
    megabyte and more apiece for a small model. So a batch is filled up to one of fewer numbers:
    those with no more than five leading bits, or the next multiple of 16. That is 2 % on average,
    less in full batches, and nothing below 32 rows.
    """
    step = min(1 << max(0, rows.bit_length() - _LEADING_BITS), _LARGEST_STEP)
    return -(-rows // step) * step


class Replaced(NamedTuple):
    """A module that gave way to another."""

    parent: nn.Module
    name: str
    module: nn.Module


class PrepackedLinear(nn.Module):
    """A frozen ``nn.Linear`` on a CPU.

    Args:
        linear: Layer to take weight and bias from; its weight is copied, its bias shared.
        tokens: Rows that the layout is tuned for; any number works.
        gelu: Apply GELU (by the error function) to the result.

    Attributes:
        dtype: Number format of the weight.
    """

    def __init__(self, linear: nn.Linear, tokens: int, *, gelu: bool = False) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.dtype = linear.weight.dtype
        self._tokens = tokens
        self._weight: torch.Tensor
        self.pack(linear.weight.detach())
        bias: torch.Tensor | None = linear.bias
        self._bias = None if bias is None else bias.detach()
        self._activation = "gelu" if gelu else "none"

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply; shape ``[..., in_features]`` to ``[..., out_features]``."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._weight, self._bias, self._activation, [], "none"
        )
        return result

    def unpacked(self) -> torch.Tensor:
        """A row-major copy of the weight, shape ``[out_features, in_features]``."""
        weight: torch.Tensor = self._weight.to_dense()
        return weight

    def drop(self) -> None:
        """Give up the weight's memory; :meth:`pack` brings it back."""
        self._weight = torch.empty(0, dtype=self.dtype)

    def pack(self, weight: torch.Tensor) -> None:
        """Lay a weight out anew: row-major, shape ``[out_features, in_features]``."""
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, self._tokens)

    def plain(self) -> nn.Module:
        """The same function by plain layers, with copied weights."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(self.unpacked(), requires_grad=False)
        if self._bias is not None:
            linear.bias = nn.Parameter(self._bias.clone(), requires_grad=False)
        return linear if self._activation == "none" else nn.Sequential(linear, nn.GELU())


def can_prepack(dtype: torch.dtype) -> bool:
    """Whether this build of torch has the operators, and this CPU what they need for a format."""
    operators = torch.ops.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise")
    if not (torch.backends.mkldnn.is_available() and all(hasattr(operators, n) for n in names)):
        return False
    if dtype == torch.bfloat16:
        return bool(operators._is_mkldnn_bf16_supported())
    return dtype == torch.float32 or bool(operators._is_mkldnn_fp16_supported())


def prepack_linears(module: nn.Module, tokens: int, *, fuse: bool = True) -> list[Replaced]:
    """Replace every plain ``nn.Linear`` below a module.

    Args:
        module: Frozen module in evaluation mode, on a CPU.
        tokens: Rows of a usual batch.
        fuse: Take a GELU behind a layer into it.

    Returns:
        What was replaced, for :func:`put_back`.
    """
    replaced: list[Replaced] = []
    for parent in list(module.modules()):
        activated = _activated(parent) if fuse else {}
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                replaced.append(Replaced(parent, name, child))
                setattr(parent, name, PrepackedLinear(child, tokens, gelu=name in activated))
        for activation in activated.values():
            replaced.append(Replaced(parent, activation, getattr(parent, activation)))
            setattr(parent, activation, nn.Identity())
    return replaced


def put_back(replaced: list[Replaced]) -> None:
    """Undo what :func:`prepack_linears` did."""
    for parent, name, module in replaced:
        setattr(parent, name, module)


def _activated(parent: nn.Module) -> dict[str, str]:
    """Plain linear layers with a GELU right behind them, and the name of that."""
    return {
        layer: activation
        for layer, activation in _ACTIVATED
        if type(getattr(parent, layer, None)) is nn.Linear
        and _is_gelu(getattr(parent, activation, None))
    }


def _is_gelu(module: object) -> bool:
    if isinstance(module, GELUActivation):
        return module.act is nn.functional.gelu
    return isinstance(module, nn.GELU) and module.approximate == "none"
