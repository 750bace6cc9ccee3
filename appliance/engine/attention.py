# SPDX-License-Identifier: Apache-2.0
"""Attention over texts that are packed end to end.

Registered with transformers under :data:`PACKED`, so that every model class that dispatches its
attention can run packed. A name that transformers has no mask for gets no mask at all, so keeping
texts apart is this function's work. Where the texts lie travels to it as a keyword argument of the
model's ``forward``.

On CUDA one flash attention kernel takes all texts. Elsewhere neighbours of equal length share one
call of ``scaled_dot_product_attention``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

__all__ = ["PACKED", "SEGMENTS", "Group", "Segments", "equal_length_groups", "packed_attention"]

PACKED = "appliance_packed"
SEGMENTS = "packed_segments"

SCORE_ARGUMENTS = ("softcap", "s_aux", "position_bias")
"""Limits on scores, sinks and biases: what some models hand to their attention. Left out, the
error may be too small to be seen in a proof."""

HALF = (torch.float16, torch.bfloat16)


class Group(NamedTuple):
    """Neighbouring texts of one length: they share one attention call without any padding."""

    start: int
    """First token of the first text."""
    texts: int
    length: int


@dataclass(frozen=True, slots=True)
class Segments:
    """Where the texts of a batch lie.

    Attributes:
        groups: Neighbours of equal length.
        cu_seqlens: int32, shape ``[texts + 1]``, on the model's device: where each text starts.
        lengths: int32, shape ``[texts]``, on the host: tokens of each text.
        groups: Neighbours of equal length.
        longest: Tokens of the longest text.
    """

    cu_seqlens: torch.Tensor
    lengths: torch.Tensor
    groups: list[Group]
    longest: int

    @classmethod
    def of(cls, lengths: torch.Tensor, cu_seqlens: torch.Tensor) -> Segments:
        """Texts of given lengths, end to end.

        Args:
            lengths: int32, shape ``[texts]``, on the host.
            cu_seqlens: int32, shape ``[texts + 1]``, on the model's device.
        """
        groups = equal_length_groups(lengths.tolist())
        return cls(cu_seqlens, lengths, groups, max(group.length for group in groups))


class Rule(NamedTuple):
    """Which tokens of a text see which."""

    scaling: float | None
    """Factor on the scores. Unset: ``head_dim ** -0.5``."""
    window: int | None
    """A token sees others less than this far away."""
    causal: bool
    """Whether it sees only those before it."""


def equal_length_groups(lengths: list[int]) -> list[Group]:
    """Group neighbours of equal length.

    Args:
        lengths: Tokens of each text, in the order they are packed.
    """
    groups: list[Group] = []
    start = 0
    for length in lengths:
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
    packed_segments: Segments,
    **others: Any,
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
        packed_segments: Where the texts lie.
        others: What transformers passes beside these.

    Returns:
        Shape ``[1, tokens, heads, head_dim]``, and no attention weights.

    Raises:
        NotImplementedError: One of the others would change the scores.
    """
    if unknown := [name for name in SCORE_ARGUMENTS if others.get(name) is not None]:
        raise NotImplementedError(f"packed attention takes no {unknown[0]}")
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    # [tokens, heads, head_dim] views, so that a slice of tokens is one contiguous block
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if torch.compiler.is_compiling():
        lengths, cu_seqlens = packed_segments.lengths, packed_segments.cu_seqlens
        attended = _opaque(q, k, v, lengths, cu_seqlens, scaling, sliding_window, causal)
    else:
        rule = Rule(scaling, sliding_window, causal)
        attended = _attend(q, k, v, packed_segments, rule)
    return attended.unsqueeze(0), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    rule: Rule,
) -> torch.Tensor:
    attend = _flash if _flash_takes(query) else _by_groups
    return attend(query, key, value, segments, rule)


@torch.library.custom_op("appliance::packed_attention", mutates_args=())
def _opaque(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: torch.Tensor,
    cu_seqlens: torch.Tensor,
    scaling: float | None,
    window: int | None,
    causal: bool,
) -> torch.Tensor:
    """For torch.compile, which would otherwise compile anew for each batch's lengths."""
    segments = Segments.of(lengths, cu_seqlens)
    return _attend(query, key, value, segments, Rule(scaling, window, causal))


@_opaque.register_fake
def _(query: torch.Tensor, _key: torch.Tensor, value: torch.Tensor, *_: Any) -> torch.Tensor:
    return query.new_empty(*query.shape[:2], value.shape[-1])


@lru_cache
def _has_flash(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _flash_takes(query: torch.Tensor) -> bool:
    head_dim = query.shape[-1]
    fits = query.dtype in HALF and head_dim % 8 == 0 and head_dim <= 256
    return fits and _has_flash(query.device)


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    rule: Rule,
) -> torch.Tensor:
    reach = -1 if rule.window is None else rule.window - 1
    # A model may be spread over devices; this is no copy on the first.
    cu_seqlens, longest = segments.cu_seqlens.to(query.device), segments.longest
    attended = varlen_attn(
        query,
        key,
        value,
        cu_seqlens,
        cu_seqlens,
        longest,
        longest,
        scale=rule.scaling,
        window_size=(reach, 0 if rule.causal else reach),
        enable_gqa=key.shape[1] != query.shape[1],
    )
    assert isinstance(attended, torch.Tensor)  # a pair only where more was asked for
    return attended


def _by_groups(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    rule: Rule,
) -> torch.Tensor:
    output = query.new_empty(*query.shape[:2], value.shape[-1])
    if query.device.type == "cpu" and query.dtype in HALF:
        # Its kernel for short texts is faster in float32 than in half precision, and more exact.
        query, key, value = query.float(), key.float(), value.float()
    for start, texts, length in segments.groups:
        end = start + texts * length
        q, k, v = (
            tensor[start:end].unflatten(0, (texts, length)).transpose(1, 2)
            for tensor in (query, key, value)
        )
        mask = _window_mask(length, rule.window, rule.causal, query.device)
        attended = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=rule.causal and mask is None and length > 1,
            scale=rule.scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        output[start:end].unflatten(0, (texts, length)).copy_(attended.transpose(1, 2))
    output[end:] = 0  # tokens behind the last text belong to none
    return output


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
