# SPDX-License-Identifier: Apache-2.0
"""Linear layers whose weights lie in memory as the CPU's matrix kernels want them.

``torch.nn.Linear`` hands oneDNN or MKL a row-major matrix, which they rearrange at every call. The
operators that torch.compile uses on CPUs take weights that were rearranged once. On a short text,
where rearranging costs more than multiplying, this halves the time; on full batches it is about a
tenth.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["can_prepack", "prepack_linears"]


class PrepackedLinear(nn.Module):
    """A frozen ``nn.Linear`` on a CPU.

    Args:
        linear: Layer to take weight and bias from; its weight is copied, its bias shared.
        tokens: Rows that the layout is tuned for; any number works.
    """

    def __init__(self, linear: nn.Linear, tokens: int) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), tokens)
        bias: torch.Tensor | None = linear.bias
        self._bias = None if bias is None else bias.detach()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply; shape ``[..., in_features]`` to ``[..., out_features]``."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._weight, self._bias, "none", [], ""
        )
        return result


def can_prepack() -> bool:
    """Whether this build of torch has the operators."""
    operators = torch.ops.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(operators, n) for n in names)


def prepack_linears(module: nn.Module, tokens: int) -> list[tuple[nn.Module, str, nn.Module]]:
    """Replace every plain ``nn.Linear`` below a module.

    Args:
        module: Frozen module in evaluation mode, on a CPU.
        tokens: Rows of a usual batch.

    Returns:
        ``(parent, name, layer)`` of each layer that was replaced; setting them back undoes it.
    """
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                replaced.append((parent, name, child))
                setattr(parent, name, PrepackedLinear(child, tokens))
    return replaced
