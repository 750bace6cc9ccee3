# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from appliance.engine.attention import (
    PACKED,
    Group,
    Segments,
    equal_length_groups,
    packed_attention,
)
from appliance.engine.jobs import Batch

LENGTHS = (1, 2, 7, 7, 7, 3, 16, 16)
HEAD_DIM = 8


class Layer(torch.nn.Module):
    """What an attention layer tells of itself."""

    def __init__(self, is_causal: bool | None) -> None:
        super().__init__()
        if is_causal is not None:
            self.is_causal = is_causal


def tensors(heads: int, key_heads: int) -> list[torch.Tensor]:
    """Query, key and value of all texts end to end."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(1, count, sum(LENGTHS), HEAD_DIM, generator=generator)
        for count in (heads, key_heads, key_heads)
    ]


def one_by_one(
    packed: list[torch.Tensor],
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """The same attention, text after text, with the mask written out."""
    query, key, value = packed
    repeats = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    attended: list[torch.Tensor] = []
    for q, k, v in zip(
        *(tensor.split(LENGTHS, dim=2) for tensor in (query, key, value)), strict=True
    ):
        seen = torch.tensor(
            [
                [
                    (not causal or other <= own) and (window is None or abs(own - other) < window)
                    for other in range(q.shape[2])
                ]
                for own in range(q.shape[2])
            ]
        )
        attended.append(F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale))
    return torch.cat(attended, dim=2).transpose(1, 2)


def packed_together(
    packed: list[torch.Tensor],
    layer: Layer,
    *,
    causal: bool | None = None,
    window: int | None = None,
    scale: float | None = None,
    **others: Any,
) -> torch.Tensor:
    batch = Batch.pack([np.zeros(length, dtype=np.int64) for length in LENGTHS])
    segments = Segments.of(torch.from_numpy(batch.lengths), torch.from_numpy(batch.cu_seqlens))
    output, weights = packed_attention(
        layer,
        packed[0],
        packed[1],
        packed[2],
        None,
        scaling=scale,
        sliding_window=window,
        is_causal=causal,
        packed_segments=segments,
        dropout=0.0,
        **others,
    )
    assert weights is None
    return output


@pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_texts_attend_within_themselves_only(causal: bool, key_heads: int) -> None:
    packed = tensors(4, key_heads)
    torch.testing.assert_close(
        packed_together(packed, Layer(causal)), one_by_one(packed, causal=causal)
    )


@pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
@pytest.mark.parametrize("window", [1, 3, 7, 15, 16, 100])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_a_sliding_window_limits_how_far_a_token_sees(
    causal: bool, window: int, key_heads: int
) -> None:
    packed = tensors(4, key_heads)
    torch.testing.assert_close(
        packed_together(packed, Layer(causal), window=window),
        one_by_one(packed, causal=causal, window=window),
    )


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias"])
def test_what_would_change_the_scores_is_refused(name: str) -> None:
    packed = tensors(2, 2)
    with pytest.raises(NotImplementedError, match=name):
        packed_together(packed, Layer(False), **{name: 1.0})
    torch.testing.assert_close(
        packed_together(packed, Layer(False), **{name: None}), one_by_one(packed)
    )


def test_the_scale_is_the_one_given() -> None:
    packed = tensors(2, 2)
    torch.testing.assert_close(
        packed_together(packed, Layer(False), scale=0.5), one_by_one(packed, scale=0.5)
    )


def test_the_argument_beats_what_the_layer_says_of_itself() -> None:
    packed = tensors(2, 2)
    torch.testing.assert_close(
        packed_together(packed, Layer(True), causal=False), one_by_one(packed)
    )


def test_a_layer_that_says_nothing_looks_both_ways() -> None:
    packed = tensors(2, 2)
    torch.testing.assert_close(packed_together(packed, Layer(None)), one_by_one(packed))


def test_tokens_behind_the_last_text_are_left_alone() -> None:
    packed = tensors(2, 2)
    filled = [F.pad(tensor, (0, 0, 0, 5), value=torch.inf) for tensor in packed]
    output = packed_together(filled, Layer(False))
    torch.testing.assert_close(output[:, : sum(LENGTHS)], one_by_one(packed))
    assert not output[:, sum(LENGTHS) :].any()


def test_transformers_knows_the_function_and_has_no_mask_for_it() -> None:
    assert AttentionInterface()[PACKED] is packed_attention
    assert PACKED not in ALL_MASK_ATTENTION_FUNCTIONS


def test_neighbours_of_one_length_share_a_group() -> None:
    groups = equal_length_groups([3, 3, 5, 3])
    assert groups == [Group(0, 2, 3), Group(6, 1, 5), Group(11, 1, 3)]


@given(st.lists(st.integers(1, 9), max_size=20))
def test_groups_cover_the_texts_in_order(lengths: list[int]) -> None:
    groups = equal_length_groups(lengths)
    assert [length for _, texts, length in groups for _ in range(texts)] == lengths
    end = 0
    for start, texts, length in groups:
        assert start == end
        end += texts * length
