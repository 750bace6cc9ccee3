# SPDX-License-Identifier: Apache-2.0
"""Vectors are those of sentence-transformers, family by family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from torch import nn

from appliance.engine.attention import Group
from appliance.engine.jobs import Batch
from appliance.engine.prepack import can_prepack
from appliance.engine.sources import locate_model
from appliance.engine.types import FloatMatrix
from tests.parity.families import FAMILIES, LONGEST
from tests.parity.reference import (
    REAL,
    TEXTS,
    assert_same,
    cosines,
    load,
    ours,
    prove,
    theirs,
    warmed,
)
from tests.parity.tiny import PROMPTS
from tests.parity.vocabularies import CORPUS

Build = Callable[..., Path]


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_sentence_transformers(family: str, built: Build) -> None:
    folder = built(family)
    assert_same(ours(warmed(folder)), theirs(folder))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_that_can_run_packed_does(family: str, built: Build) -> None:
    assert warmed(built(family)).transformer.packed == FAMILIES[family].packed


@pytest.mark.parametrize("family", FAMILIES)
def test_the_padded_way_gives_the_same_vectors(family: str, built: Build) -> None:
    backend = load(built(family))
    prove(backend, packed=False, prepacked=False)
    assert not backend.transformer.packed
    assert_same(ours(backend), theirs(built(family)))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_side_that_a_decoder_is_padded_on_makes_no_difference(
    family: str, built: Build
) -> None:
    sides = [built(family, padding_side=side) for side in ("left", "right")]
    left, right = (ours(warmed(folder)) for folder in sides)
    assert_same(left, theirs(sides[0]))
    assert_same(left, theirs(sides[1]))
    np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_has_the_same_vector_in_any_company(family: str, built: Build) -> None:
    backend = warmed(built(family))
    alone = np.concatenate([ours(backend, [text]) for text in TEXTS])
    assert_same(ours(backend), alone)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "qwen3"])
def test_prepacked_linear_layers_give_the_same_vectors(family: str, built: Build) -> None:
    plain = load(built(family))
    prove(plain, prepacked=False)
    prepacked = warmed(built(family))
    assert not plain.transformer.prepacked
    assert prepacked.transformer.prepacked == can_prepack(torch.float32)
    assert_same(ours(prepacked), ours(plain))


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_points_the_same_way(family: str, built: Build) -> None:
    backend = warmed(built(family), "bfloat16")
    assert backend.transformer.dtype == torch.bfloat16
    assert cosines(ours(backend), theirs(built(family))).min() >= 0.999


@pytest.mark.parametrize(
    "pooling",
    ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ("mean", "cls")],
    ids=str,
)
def test_each_pooling_is_that_of_sentence_transformers(pooling: Any, built: Build) -> None:
    folder = built("bert", pooling=pooling)
    assert_same(ours(warmed(folder)), theirs(folder))


@pytest.mark.parametrize("pools_prompt", [True, False], ids=["pooled", "left out"])
@pytest.mark.parametrize("family", ["bert", "roberta", "qwen3", "deberta-v2"])
def test_a_prompt_is_that_of_sentence_transformers(
    family: str, pools_prompt: bool, built: Build
) -> None:
    folder = built(family, pools_prompt=pools_prompt)
    backend = warmed(folder)
    assert (backend.prompts, backend.default_prompt_name) == (PROMPTS, "document")
    assert backend.pools_prompt == pools_prompt
    prompt = PROMPTS["query"]
    assert_same(ours(backend, prompt=prompt), theirs(folder, prompt=prompt))


@pytest.mark.parametrize(
    "pooling", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
)
def test_each_pooling_leaves_a_prompt_out_as_sentence_transformers_does(
    pooling: str, built: Build
) -> None:
    folder = built("bert", pooling=pooling, pools_prompt=False)
    prompt = PROMPTS["query"]
    assert_same(ours(warmed(folder), prompt=prompt), theirs(folder, prompt=prompt))


def test_dense_layers_and_unit_length_are_those_of_sentence_transformers(built: Build) -> None:
    torch.manual_seed(1)
    wide, narrow = Dense(32, 48), Dense(48, 16, bias=False, activation_function=nn.Identity())
    folder = built("bert", wide, narrow, Normalize())
    backend = warmed(folder)
    assert backend.dimension == 16
    found = ours(backend)
    assert_same(found, theirs(folder))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_longer_text_is_cut_as_sentence_transformers_cuts_it(family: str, built: Build) -> None:
    folder = built(family)
    texts = [" ".join(CORPUS * 4)]
    assert len(load(folder).tokenizer.encode(texts)[0]) > LONGEST
    assert_same(ours(warmed(folder), texts), theirs(folder, texts))


@pytest.mark.parametrize(
    "family",
    # T5 has a number for each two positions, and no limit but ours.
    [pytest.param(f, marks=pytest.mark.slow) if f == "t5" else f for f in FAMILIES],
)
def test_a_text_as_long_as_the_model_claims_to_read_is_read(family: str, built: Build) -> None:
    backend = warmed(built(family, longest=None))
    longest = np.full(backend.max_input_tokens, 60, dtype=np.int64)
    assert np.isfinite(backend.forward(Batch.pack([longest]))).all()


def test_tokens_that_the_model_has_no_row_for_do_no_harm(built: Build) -> None:
    folder = built("bert", added=["<unused>", "<unused too>"])
    assert_same(ours(warmed(folder)), theirs(folder))


def test_a_packing_that_mixes_texts_is_found_out(
    built: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_in_one(lengths: list[int]) -> list[Group]:
        return [Group(0, 1, sum(lengths))]

    monkeypatch.setattr("appliance.engine.attention.equal_length_groups", all_in_one)
    backend = warmed(built("bert"))
    assert not backend.transformer.packed
    assert_same(ours(backend), theirs(built("bert")))


LONG_TEXTS = (*TEXTS, " ".join(["word"] * 150), " ".join(CORPUS * 9))


@pytest.fixture(scope="module")
def real_vectors() -> FloatMatrix:
    folder = locate_model(REAL, revision=None, token=None, cache=None)
    return theirs(folder, LONG_TEXTS)


def test_the_embedded_model_is_that_of_sentence_transformers(real_vectors: FloatMatrix) -> None:
    backend = warmed(REAL)
    assert backend.transformer.packed
    assert backend.max_input_tokens == 256
    lengths = [len(ids) for ids in backend.tokenizer.encode(list(LONG_TEXTS))]
    assert sorted(lengths)[-2] in range(129, 256)
    assert max(lengths) > 256
    assert_same(ours(backend, LONG_TEXTS), real_vectors)


def test_the_embedded_model_points_the_same_way_in_bfloat16(real_vectors: FloatMatrix) -> None:
    assert cosines(ours(warmed(REAL, "bfloat16"), LONG_TEXTS), real_vectors).min() >= 0.9999


def test_a_padding_id_inside_a_text_does_not_count_as_a_position(built: Build) -> None:
    backend = warmed(built("roberta"))
    assert backend.transformer.packed
    padding = backend.transformer._padding_id
    texts = [np.array([0, 40, padding, 41, 2]), np.array([0, padding, padding, 2])]
    together = backend.forward(Batch.pack(texts))
    backend.transformer.packed = False
    backend.transformer.module.set_attn_implementation("sdpa")
    assert_same(together, backend.forward(Batch.pack(texts)))


def test_native_ids_end_where_the_models_rows_do(built: Build) -> None:
    backend = warmed(built("bert", added=["<unused>", "<unused too>"]))
    assert backend.vocabulary_size == backend.tokenizer.vocabulary_size - 2
