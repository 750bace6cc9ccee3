# SPDX-License-Identifier: Apache-2.0
"""SPLADE's vectors are those of sentence-transformers' sparse encoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers.sparse_encoder.modules import SpladePooling

from appliance.engine import splade
from appliance.engine.types import FloatMatrix
from appliance.errors import ModelUnavailable
from tests.parity.families import FAMILIES, SPLADE_FAMILIES
from tests.parity.reference import (
    TEXTS,
    assert_same,
    cosines,
    load,
    ours,
    prove,
    theirs_splade,
    warmed,
)
from tests.parity.tiny import build_splade

Build = Callable[..., Path]


@pytest.fixture(scope="module")
def built_splade(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Makes a tiny SPLADE model's folder, once for each family and pooling."""
    folders: dict[str, Path] = {}

    def make(family: str, pooling: SpladePooling | None = None) -> Path:
        key = f"{family} {pooling}"
        if key not in folders:
            folder = tmp_path_factory.mktemp(family)
            folders[key] = build_splade(folder, FAMILIES[family], pooling)
        return folders[key]

    return make


def assert_rounded(found: FloatMatrix, expected: FloatMatrix) -> None:
    """As near as float32 comes where sums are large."""
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("family", SPLADE_FAMILIES)
def test_vectors_are_those_of_the_sparse_encoder(family: str, built_splade: Build) -> None:
    folder = built_splade(family, SpladePooling("max"))
    backend = warmed(folder)
    assert backend.transformer.packed == FAMILIES[family].packed
    found, expected = ours(backend), theirs_splade(folder)
    assert found.shape == (len(TEXTS), backend.dimension)
    assert 0 < np.count_nonzero(expected) < expected.size
    assert_same(found, expected)


@pytest.mark.parametrize("family", SPLADE_FAMILIES)
def test_the_padded_way_gives_the_same_vectors(family: str, built_splade: Build) -> None:
    folder = built_splade(family, SpladePooling("max"))
    backend = load(folder)
    prove(backend, packed=False, prepacked=False)
    assert_same(ours(backend), theirs_splade(folder))


@pytest.mark.parametrize("family", SPLADE_FAMILIES)
def test_bfloat16_points_the_same_way(family: str, built_splade: Build) -> None:
    folder = built_splade(family, SpladePooling("max"))
    found = ours(warmed(folder, "bfloat16"))
    assert cosines(found, theirs_splade(folder)).min() >= 0.999


@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
@pytest.mark.parametrize("strategy", ["max", "sum"])
def test_each_way_to_pool_is_that_of_the_sparse_encoder(
    strategy: Any, activation: Any, built_splade: Build
) -> None:
    folder = built_splade("bert", SpladePooling(strategy, activation))
    assert_rounded(ours(warmed(folder)), theirs_splade(folder))


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_the_head_runs_on_a_few_tokens_at_a_time(
    strategy: Any, tokens: int, built_splade: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = built_splade("bert", SpladePooling(strategy))
    backend = warmed(folder)
    widest: list[int] = []
    pooling: Any = backend._chain._pooling
    pooling.head.register_forward_hook(lambda _, __, out: widest.append(out.logits.shape[1]))
    monkeypatch.setitem(splade.LOGITS_BYTES, "cpu", tokens * backend.dimension * 4)
    assert_rounded(ours(backend), theirs_splade(folder))
    assert max(widest) == tokens
    assert len(widest) > 1


def test_float32_is_the_way_out_of_half_precision(built_splade: Build) -> None:
    folder = built_splade("bert", SpladePooling("max"))
    backend = warmed(folder, "bfloat16")
    backend.forward = backend.forward_in_float32  # type: ignore[method-assign]
    assert cosines(ours(backend), theirs_splade(folder)).min() >= 0.9995


def test_a_setting_makes_splade_of_a_masked_language_model(built_splade: Build) -> None:
    folder = built_splade("bert")
    backend = warmed(folder, pooling="splade")
    assert backend.dimension == json.loads((folder / "config.json").read_text())["vocab_size"]
    assert_same(ours(backend), theirs_splade(folder))


def test_a_setting_makes_a_dense_model_of_splade(built_splade: Build) -> None:
    splade_folder, plain = built_splade("bert", SpladePooling("max")), built_splade("bert")
    found = ours(warmed(splade_folder, pooling="mean"))
    np.testing.assert_array_equal(found, ours(warmed(plain)))


def test_a_model_without_a_masked_language_head_is_refused(built: Build) -> None:
    with pytest.raises(ModelUnavailable, match=r"SPLADE needs a ForMaskedLM model.*BertModel"):
        load(built("bert"), pooling="splade")


def test_a_head_whose_weights_are_not_there_is_refused(built: Build, tmp_path: Path) -> None:
    for file in built("bert").iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modules.json").unlink()
    with pytest.raises(ModelUnavailable, match="weights lack cls"):
        load(tmp_path, pooling="splade")


def test_a_model_that_cannot_be_taken_apart_is_refused(
    built_splade: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(self: Any, *_: object, inputs_embeds: Any, **__: object) -> Any:
        return splade.BaseModelOutput(last_hidden_state=inputs_embeds * 2)

    monkeypatch.setattr(splade._Given, "forward", twice)
    with pytest.raises(ModelUnavailable, match="BertForMaskedLM cannot be taken apart"):
        load(built_splade("bert"), pooling="splade")
