# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers.sentence_transformer.modules import Dense, Pooling
from torch import nn

from appliance.engine.pooling import load_dense, pool_segments
from appliance.engine.registry import DenseSpec
from appliance.errors import ModelUnavailable

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
TANH = "torch.nn.modules.activation.Tanh"


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


def saved(folder: Path, dense: Dense) -> DenseSpec:
    dense.save(str(folder))
    config = dense.get_config_dict()
    return DenseSpec(
        folder,
        config["in_features"],
        config["out_features"],
        config["bias"],
        config["activation_function"],
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Identity(), nn.GELU()], ids=str)
def test_a_dense_layer_is_that_of_sentence_transformers(
    bias: bool, activation: nn.Module, tmp_path: Path
) -> None:
    dense = Dense(WIDTH, 4, bias=bias, activation_function=activation)
    vectors = hidden()
    with torch.inference_mode():
        expected = dense({"sentence_embedding": vectors})["sentence_embedding"]
        found = load_dense(saved(tmp_path, dense))(vectors)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["os.system", "torch.nn.functional.relu", "torch.nn.Nonsense"])
def test_an_activation_that_is_none_of_torchs_modules_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=name):
        load_dense(DenseSpec(tmp_path, 2, 2, True, name))


def test_missing_weights_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "2_Dense"
    with pytest.raises(ModelUnavailable, match=r"2_Dense/model\.safetensors is missing"):
        load_dense(DenseSpec(folder, 2, 2, True, TANH))


def test_weights_of_another_shape_are_told(tmp_path: Path) -> None:
    save_file({"linear.weight": torch.zeros(3, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelUnavailable, match="size mismatch"):
        load_dense(DenseSpec(tmp_path, 2, 2, False, TANH))
