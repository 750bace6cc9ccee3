# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn

from appliance.engine.pooling import pool_segments

LENGTHS = torch.tensor([4, 5, 3, 3, 9])
WIDTH = 6
THEIR_NAMES = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len": "mean_sqrt_len_tokens",
    "weighted_mean": "weightedmean",
    "last_token": "lasttoken",
}
COMBINED = ("cls", "mean", "max", "last_token")


def hidden(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(int(LENGTHS.sum()), WIDTH, generator=generator).to(dtype)


def ours(modes: tuple[str, ...], values: torch.Tensor, left_out: int = 0) -> torch.Tensor:
    starts = torch.cat((torch.zeros(1, dtype=torch.int64), LENGTHS.cumsum(0)))
    unpooled = torch.full_like(LENGTHS, left_out, dtype=torch.int32) if left_out else None
    return pool_segments(values, starts, modes, unpooled)


def theirs(modes: tuple[str, ...], values: torch.Tensor, left_out: int = 0) -> torch.Tensor:
    pieces = list(values.split(LENGTHS.tolist()))
    features = {
        "token_embeddings": nn.utils.rnn.pad_sequence(pieces, batch_first=True),
        "attention_mask": nn.utils.rnn.pad_sequence(
            [torch.ones(len(piece), dtype=torch.int64) for piece in pieces], batch_first=True
        ),
        "prompt_length": left_out,
    }
    pooling = Pooling(WIDTH, [THEIR_NAMES[mode] for mode in modes], include_prompt=not left_out)
    result: torch.Tensor = pooling(features)["sentence_embedding"]
    return result


@pytest.mark.parametrize("mode", THEIR_NAMES)
def test_a_mode_is_that_of_sentence_transformers(mode: str) -> None:
    torch.testing.assert_close(ours((mode,), hidden()), theirs((mode,), hidden()))


@pytest.mark.parametrize("mode", THEIR_NAMES)
def test_a_prompt_is_left_out_as_sentence_transformers_leaves_it_out(mode: str) -> None:
    torch.testing.assert_close(ours((mode,), hidden(), 2), theirs((mode,), hidden(), 2))


def test_several_modes_are_laid_side_by_side() -> None:
    torch.testing.assert_close(ours(COMBINED, hidden()), theirs(COMBINED, hidden()))


@pytest.mark.parametrize("mode", THEIR_NAMES)
def test_half_precision_is_summed_in_float32(mode: str) -> None:
    pooled = ours((mode,), hidden(torch.bfloat16))
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, ours((mode,), hidden(torch.bfloat16).float()))
