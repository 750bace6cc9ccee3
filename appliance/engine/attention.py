# SPDX-License-Identifier: Apache-2.0
"""Attention over texts that are packed end to end.

Registered with transformers under :data:`PACKED`, so that every model class that dispatches its
attention can run packed. A name that transformers has no mask for gets no mask at all, so keeping
texts apart is this function's work. The groups of equal lengths travel to it as a keyword argument
of the model's ``forward``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AttentionInterface

__all__ = ["GROUPS", "PACKED", "Group", "equal_length_groups", "packed_attention"]

PACKED = "appliance_packed"
GROUPS = "equal_length_groups"


class Group(NamedTuple):
    """Neighbouring texts of one length: they share one attention call without any padding."""

    start: int
    """First token of the first text."""
    texts: int
    length: int


def equal_length_groups(lengths: np.typing.NDArray[np.int32]) -> list[Group]:
    """Group neighbours of equal length.

    Args:
        lengths: int32, shape ``[texts]``: tokens of each text, in the order they are packed.
    """
    groups: list[Group] = []
    start = 0
    for length in lengths.tolist():
        if groups and groups[-1].length == length:
            groups[-1] = groups[-1]._replace(texts=groups[-1].texts + 1)
        else:
            groups.append(Group(start, 1, length))
        start += length
    return groups


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    equal_length_groups: list[Group],
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each text.

    Args:
        module: Attention layer; its ``is_causal`` holds unless the argument says otherwise.
        query: Shape ``[1, heads, tokens, head_dim]``.
        key: Shape ``[1, key_heads, tokens, head_dim]``; ``key_heads`` may divide ``heads``.
        value: Like ``key``.
        scaling: Factor on the scores. Unset: ``head_dim ** -0.5``.
        sliding_window: A token sees others less than this far away.
        is_causal: Whether a token sees only those before it.
        equal_length_groups: The texts, in the order they are packed.

    Returns:
        Shape ``[1, tokens, heads, head_dim]``, and no attention weights.
    """
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    heads, tokens = query.shape[1], query.shape[2]
    shared_keys = key.shape[1] != heads
    # [tokens, heads, head_dim] views, so that a slice of tokens is one contiguous block
    packed = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    output = query.new_empty(tokens, heads, value.shape[-1])
    for start, texts, length in equal_length_groups:
        end = start + texts * length
        q, k, v = (
            tensor[start:end].unflatten(0, (texts, length)).transpose(1, 2) for tensor in packed
        )
        mask = _window_mask(length, sliding_window, causal, query.device)
        attended = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=causal and mask is None and length > 1,
            scale=scaling,
            enable_gqa=shared_keys,
        )
        output[start:end].unflatten(0, (texts, length)).copy_(attended.transpose(1, 2))
    return output.unsqueeze(0), None


def _window_mask(
    length: int, window: int | None, causal: bool, device: torch.device
) -> torch.Tensor | None:
    if window is None or length <= window:
        return None
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    near = distance.abs() < window
    return near & (distance >= 0) if causal else near


AttentionInterface.register(PACKED, packed_attention)
