# SPDX-License-Identifier: Apache-2.0
"""From token vectors to one vector a text.

The formulas are those of sentence-transformers' ``Pooling`` and ``Dense`` modules, over packed
texts: sums are taken in float32 whatever the model's dtype.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from safetensors.torch import load_file
from torch import nn

from appliance.engine.registry import DenseSpec
from appliance.errors import ModelUnavailable

__all__ = ["load_dense", "pool_segments"]


def pool_segments(
    hidden: torch.Tensor,
    cu_seqlens: torch.Tensor,
    modes: Sequence[str],
    unpooled: torch.Tensor | None = None,
) -> torch.Tensor:
    """Reduce each packed text to one vector.

    Args:
        hidden: Shape ``[tokens, hidden]``.
        cu_seqlens: int64, shape ``[texts + 1]``: where each text starts.
        modes: ``cls``, ``last_token``, ``mean``, ``mean_sqrt_len``, ``weighted_mean`` or ``max``;
            the results of several are laid side by side.
        unpooled: Shape ``[texts]``: first tokens of each text to leave out; fewer than it has.

    Returns:
        float32, shape ``[texts, hidden * len(modes)]``.
    """
    positions = torch.arange(1, len(hidden) + 1, device=hidden.device)
    positions -= cu_seqlens[:-1].repeat_interleave(cu_seqlens.diff())
    if unpooled is not None:
        unpooled = unpooled.to(cu_seqlens)
        kept = positions > unpooled.repeat_interleave(cu_seqlens.diff())
        hidden, positions = hidden[kept], positions[kept]
        cu_seqlens = torch.cat((cu_seqlens[:1], (cu_seqlens.diff() - unpooled).cumsum(0)))
    starts, ends = cu_seqlens[:-1], cu_seqlens[1:]
    lengths = ends - starts
    pooled: list[torch.Tensor] = []
    for mode in modes:
        if mode == "cls":
            pooled.append(hidden[starts].float())
        elif mode == "last_token":
            pooled.append(hidden[ends - 1].float())
        elif mode == "max":
            pooled.append(_segment_reduce(hidden, "max", lengths))
        elif mode == "weighted_mean":
            # By a token's place in its text, whether or not the first were left out.
            weights = positions.float().unsqueeze(1)
            total = _segment_reduce(hidden.float() * weights, "sum", lengths)
            pooled.append(total / _segment_reduce(weights, "sum", lengths))
        else:
            divisor = lengths.float().unsqueeze(1)
            if mode == "mean_sqrt_len":
                divisor = divisor.sqrt()
            pooled.append(_segment_reduce(hidden, "sum", lengths) / divisor)
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)


def _segment_reduce(values: torch.Tensor, how: str, lengths: torch.Tensor) -> torch.Tensor:
    return torch.segment_reduce(values.float(), how, lengths=lengths, unsafe=True)


def load_dense(spec: DenseSpec) -> nn.Sequential:
    """Build a Dense module and read its weights.

    Raises:
        ModelUnavailable: The activation is not one of ``torch.nn``'s, or the weights are missing
            or of another shape.
    """
    name = spec.activation.rpartition(".")[2]
    activation = getattr(nn, name, None)
    if not spec.activation.startswith("torch.nn.") or activation is None:
        raise ModelUnavailable(f"its Dense module asks for the activation {spec.activation!r}")
    linear = nn.Linear(spec.in_features, spec.out_features, bias=spec.bias)
    path = spec.folder / "model.safetensors"
    if not path.is_file():
        raise ModelUnavailable(f"{spec.folder.name}/model.safetensors is missing")
    weights = {key.removeprefix("linear."): value for key, value in load_file(path).items()}
    try:
        linear.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelUnavailable(f"{spec.folder.name}: {error}") from error
    return nn.Sequential(linear, activation())
