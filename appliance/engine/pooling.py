# SPDX-License-Identifier: Apache-2.0
"""From token vectors to one vector a text.

The formulas are those of sentence-transformers' ``Pooling`` module, over packed texts: sums are
taken in float32 whatever the model's dtype.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from appliance.engine.jobs import Batch

__all__ = ["SegmentPooling", "pool_segments"]


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
    # Sizes are given where torch would otherwise wait for the device to tell them.
    tokens = len(hidden)
    positions = torch.arange(1, tokens + 1, device=hidden.device)
    positions -= cu_seqlens[:-1].repeat_interleave(cu_seqlens.diff(), output_size=tokens)
    if unpooled is not None:
        unpooled = unpooled.to(cu_seqlens)
        kept = positions > unpooled.repeat_interleave(cu_seqlens.diff(), output_size=tokens)
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


class SegmentPooling(nn.Module):
    """Reduces each text of a batch to one vector; see :func:`pool_segments`."""

    def __init__(self, modes: Sequence[str]) -> None:
        super().__init__()
        self._modes = modes

    def forward(self, hidden: torch.Tensor, cu_seqlens: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Pool each text but for what the batch leaves out."""
        unpooled = None if batch.unpooled is None else torch.from_numpy(batch.unpooled)
        return pool_segments(hidden, cu_seqlens, self._modes, unpooled)
