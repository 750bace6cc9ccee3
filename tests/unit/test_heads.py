# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize
from torch import nn

from appliance.engine.heads import load_heads
from appliance.engine.modules import DenseSpec, LayerNormSpec, NormalizeSpec
from appliance.errors import ModelUnavailable

WIDTH = 6
TANH = "torch.nn.modules.activation.Tanh"
VECTORS = torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(0))


def saved(folder: Path, dense: Dense) -> DenseSpec:
    folder.mkdir(exist_ok=True)
    dense.save(str(folder))
    return DenseSpec(
        folder,
        dense.in_features,
        dense.out_features,
        dense.bias,
        dense.get_config_dict()["activation_function"],
        dense.use_residual,
    )


def spec(folder: Path, *, activation: str = TANH, bias: bool = True) -> DenseSpec:
    return DenseSpec(folder, WIDTH, 2, bias, activation, residual=False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Identity(), nn.GELU()], ids=str)
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("out", [4, WIDTH])
def test_a_dense_layer_is_that_of_sentence_transformers(
    bias: bool, activation: nn.Module, residual: bool, out: int, tmp_path: Path
) -> None:
    dense = Dense(WIDTH, out, bias=bias, activation_function=activation, use_residual=residual)
    heads, width = load_heads([saved(tmp_path, dense)], WIDTH)
    assert width == out
    with torch.inference_mode():
        expected = dense({"sentence_embedding": VECTORS})["sentence_embedding"]
        torch.testing.assert_close(heads(VECTORS), expected)


def test_a_layer_norm_is_that_of_sentence_transformers(tmp_path: Path) -> None:
    norm = LayerNorm(WIDTH)
    nn.init.normal_(norm.norm.weight)
    nn.init.normal_(norm.norm.bias)
    norm.save(str(tmp_path))
    heads, width = load_heads([LayerNormSpec(tmp_path, WIDTH)], WIDTH)
    assert width == WIDTH
    with torch.inference_mode():
        expected = norm({"sentence_embedding": VECTORS})["sentence_embedding"]
        torch.testing.assert_close(heads(VECTORS), expected)


def test_unit_length_is_that_of_sentence_transformers() -> None:
    vectors = torch.cat((VECTORS, torch.zeros(1, WIDTH)))
    heads, width = load_heads([NormalizeSpec()], WIDTH)
    assert width == WIDTH
    expected = Normalize()({"sentence_embedding": vectors})["sentence_embedding"]
    torch.testing.assert_close(heads(vectors), expected)


def test_modules_follow_each_other(tmp_path: Path) -> None:
    wide = saved(tmp_path / "2_Dense", Dense(WIDTH, 9))
    narrow = saved(tmp_path / "4_Dense", Dense(9, 3))
    heads, width = load_heads([NormalizeSpec(), wide, NormalizeSpec(), narrow], WIDTH)
    assert (len(heads), width) == (4, 3)
    assert heads(VECTORS).shape == (7, 3)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "torch.nn.functional.relu",
        "torch.nn.Nonsense",
        "torch.nn.Linear",
        "torch.nn.Parameter",
        "own_code.ReLU",
    ],
)
def test_an_activation_that_is_none_of_torchs_modules_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=rf"2_Dense/config\.json .*{name}.* torch\.nn"):
        load_heads([spec(tmp_path / "2_Dense", activation=name)], WIDTH)


def test_weights_in_the_older_format_are_read_only_where_allowed(tmp_path: Path) -> None:
    folder = tmp_path / "2_Dense"
    folder.mkdir()
    dense = Dense(WIDTH, 2)
    dense.save(str(folder), safe_serialization=False)
    told = r"2_Dense/model\.safetensors is missing, only pytorch_model\.bin.* pickle_weights"
    with pytest.raises(ModelUnavailable, match=told):
        load_heads([spec(folder)], WIDTH)
    heads, _ = load_heads([spec(folder)], WIDTH, pickles=True)
    expected = dense({"sentence_embedding": VECTORS})["sentence_embedding"]
    torch.testing.assert_close(heads(VECTORS), expected)


def test_missing_weights_are_told(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"2_Dense/model\.safetensors is missing; other"):
        load_heads([spec(tmp_path / "2_Dense")], WIDTH, pickles=True)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (b"nonsense", "header"),
        ({"linear.weight": torch.zeros(3, 2)}, "size mismatch"),
        ({"weight": torch.zeros(2, WIDTH)}, "Missing key"),
    ],
    ids=["broken", "of another shape", "of another name"],
)
def test_weights_that_do_not_fit_are_told(
    weights: bytes | dict[str, torch.Tensor], told: str, tmp_path: Path
) -> None:
    folder = tmp_path / "2_Dense"
    folder.mkdir()
    if isinstance(weights, bytes):
        (folder / "model.safetensors").write_bytes(weights)
    else:
        save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelUnavailable, match=rf"(?s)2_Dense.*: .*{told}"):
        load_heads([spec(folder, bias=False)], WIDTH)


@pytest.mark.parametrize("kind", [DenseSpec, LayerNormSpec])
def test_a_module_that_does_not_fit_to_the_one_before_is_refused(
    kind: type, tmp_path: Path
) -> None:
    folder = tmp_path / "2_Head"
    module = spec(folder) if kind is DenseSpec else LayerNormSpec(folder, WIDTH)
    told = r"2_Head/config\.json says that it takes 6 values, but 5 come to it"
    with pytest.raises(ModelUnavailable, match=told):
        load_heads([module], 5)
