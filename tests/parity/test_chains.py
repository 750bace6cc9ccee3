# SPDX-License-Identifier: Apache-2.0
"""Chains of modules give the vectors of sentence-transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
)
from torch import nn

from appliance.errors import ModelUnavailable
from tests.parity.reference import TEXTS, assert_same, cosines, load, ours, theirs, warmed
from tests.parity.tiny import build_static
from tests.parity.vocabularies import CORPUS, byte_pairs

Build = Callable[..., Path]


def dense(taken: int, given: int, **options: object) -> Dense:
    torch.manual_seed(taken * given)
    return Dense(taken, given, **options)  # type: ignore[arg-type]


def layer_norm(dimension: int) -> LayerNorm:
    """One that does more than a new one would."""
    module = LayerNorm(dimension)
    nn.init.normal_(module.norm.weight)
    nn.init.normal_(module.norm.bias)
    return module


TOKENS = {"module_input_name": "token_embeddings"}
LINEAR = {"bias": False, "activation_function": nn.Identity()}
BEHIND = {
    "dense": [dense(32, 48), dense(48, 16, **LINEAR)],
    "dense with a residual": [dense(32, 32, use_residual=True), dense(32, 8, use_residual=True)],
    "layer norm": [layer_norm(32)],
    "in any order": [layer_norm(32), Dropout(0.5), dense(32, 24), layer_norm(24), Normalize()],
    "unit length in the middle": [Normalize(), dense(32, 24, activation_function=nn.GELU())],
    "embedding-gemma": [dense(32, 96, **LINEAR), dense(96, 32, **LINEAR), Normalize()],
}
BEFORE = {
    "dense": [dense(32, 24, **TOKENS)],
    "dense and unit length": [
        dense(32, 24, **TOKENS, use_residual=True, **LINEAR),
        Normalize("token_embeddings"),
    ],
}


@pytest.mark.parametrize("modules", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("family", ["bert", "gemma3"])
def test_modules_behind_the_pooling(family: str, modules: list[nn.Module], built: Build) -> None:
    folder = built(family, *modules)
    backend = warmed(folder)
    found, expected = ours(backend), theirs(folder)
    assert found.shape == (len(TEXTS), backend.dimension)
    assert_same(found, expected)


@pytest.mark.parametrize("modules", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("pooling", ["mean", ("cls", "max")], ids=str)
def test_modules_before_the_pooling(
    modules: list[nn.Module], pooling: str | tuple[str, ...], built: Build
) -> None:
    folder = built("bert", Normalize(), before=modules, pooling=pooling)
    backend = warmed(folder)
    found, expected = ours(backend), theirs(folder)
    assert found.shape == (len(TEXTS), backend.dimension)
    assert_same(found, expected)


def test_heads_compute_in_float32_beside_a_transformer_that_does_not(built: Build) -> None:
    folder = built("bert", layer_norm(32), dense(32, 16), before=[dense(32, 32, **TOKENS)])
    found = ours(warmed(folder, "bfloat16"))
    assert found.dtype == np.float32
    assert cosines(found, theirs(folder)).min() >= 0.999


def test_old_names_of_classes_give_the_same_vectors(built: Build, tmp_path: Path) -> None:
    folder = built("bert", *BEHIND["in any order"])
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    modules = json.loads((folder / "modules.json").read_text())
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rpartition('.')[2]}"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    np.testing.assert_array_equal(ours(warmed(tmp_path)), ours(warmed(folder)))


@pytest.mark.parametrize("name", ["config_kwargs", "config_args"])
def test_values_for_the_config_beside_it_count(name: str, built: Build, tmp_path: Path) -> None:
    shutil.copytree(built("bert"), tmp_path, dirs_exist_ok=True)
    path = tmp_path / "sentence_bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: {"hidden_act": "relu"}}))
    found = ours(warmed(tmp_path))
    assert_same(found, theirs(tmp_path))
    assert abs(found - theirs(built("bert"))).max() > 0.01


def test_static_embeddings(tmp_path: Path) -> None:
    folder = build_static(tmp_path, Normalize())
    backend = warmed(folder)
    assert backend.transformer.packed
    assert backend.tokenizer.special_tokens == 0
    assert_same(ours(backend), theirs(folder))
    assert cosines(ours(warmed(folder, "bfloat16")), theirs(folder)).min() >= 0.999


def test_a_static_model_reads_texts_of_any_length_that_is_set(tmp_path: Path) -> None:
    folder = build_static(tmp_path)
    text = " ".join(CORPUS * 100)
    backend = warmed(folder, max_input_tokens=100_000)
    assert len(backend.tokenizer.encode([text])[0]) > load(folder).max_input_tokens == 8192
    assert_same(ours(backend, [text]), theirs(folder, [text]))


def test_static_embeddings_of_model2vec(tmp_path: Path) -> None:
    tokenizer = byte_pairs()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    words, rows = tokenizer.get_vocab_size(), 100
    generator = torch.Generator().manual_seed(0)
    save_file(
        {
            "embeddings": torch.randn(rows, 16, generator=generator).half(),
            "mapping": torch.randint(rows, (words,), generator=generator),
            "weights": torch.rand(words, generator=generator),
        },
        tmp_path / "model.safetensors",
    )
    modules = [
        {"path": ".", "type": "sentence_transformers.models.StaticEmbedding"},
        {"path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (tmp_path / "modules.json").write_text(
        json.dumps([{"idx": n, "name": str(n), **module} for n, module in enumerate(modules)])
    )
    expected = theirs(tmp_path)
    assert_same(ours(warmed(tmp_path)), expected)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"quantization": "int8"}, "quantization is set, but a StaticEmbedding has no layers"),
        ({"pooling": "splade"}, "pooling is 'splade', but StaticEmbedding can only take the mean"),
    ],
    ids=["quantization", "pooling"],
)
def test_settings_that_say_nothing_to_a_static_model_are_refused(
    fields: dict[str, str], told: str, tmp_path: Path
) -> None:
    folder = build_static(tmp_path)
    with pytest.raises(ModelUnavailable, match=told):
        load(folder, **fields)


def test_a_static_model_without_its_files_is_refused(tmp_path: Path) -> None:
    folder = build_static(tmp_path)
    save_file({"rows": torch.zeros(3, 3)}, folder / "model.safetensors")
    with pytest.raises(ModelUnavailable, match="table of token vectors cannot be read"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors is missing"):
        load(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.json cannot be read"):
        load(folder)
