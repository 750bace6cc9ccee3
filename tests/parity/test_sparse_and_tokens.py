# SPDX-License-Identifier: Apache-2.0
"""Sparse rows and vectors of tokens are those of sentence-transformers, transformers and BGE-M3."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.sparse_encoder.modules import SpladePooling
from torch import nn
from transformers import AutoModel, AutoTokenizer

from appliance.engine.backend import Parking
from appliance.engine.jobs import Batch
from appliance.engine.model import TorchBackend
from appliance.engine.types import FloatMatrix, Output, SparseRow
from appliance.errors import ModelUnavailable
from tests.parity.families import FAMILIES, SPLADE_FAMILIES
from tests.parity.reference import (
    TEXTS,
    assert_same,
    cosines,
    load,
    ours,
    prove,
    theirs,
    theirs_splade,
    warmed,
)
from tests.parity.test_chains import BEFORE
from tests.parity.tiny import PROMPTS, build_splade
from tests.parity.vocabularies import CORPUS

Build = Callable[..., Path]


def run(
    backend: TorchBackend, output: Output, texts: Sequence[str] = TEXTS, unpooled: int = 0
) -> Any:
    """All texts in one batch."""
    limit = backend.max_input_tokens
    encoded = [
        backend.tokenizer.cut(ids, limit, "right") for ids in backend.tokenizer.encode(list(texts))
    ]
    return backend.launch(Batch.pack(encoded, [unpooled] * len(texts), output))()


def dense(rows: Sequence[SparseRow], words: int) -> FloatMatrix:
    """Sparse rows in full."""
    full = np.zeros((len(rows), words), dtype=np.float32)
    for number, row in enumerate(rows):
        assert (row.indices.dtype, row.values.dtype) == (np.int32, np.float32)
        assert (np.diff(row.indices) > 0).all()
        assert (row.values > 0).all()
        full[number, row.indices] = row.values
    return full


@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("family", SPLADE_FAMILIES)
def test_splade_rows_are_those_of_the_sparse_encoder(
    family: str, strategy: Any, tmp_path: Path
) -> None:
    folder = build_splade(tmp_path, FAMILIES[family], SpladePooling(strategy))
    backend = warmed(folder)
    assert (backend.card.kind, backend.card.pooling) == ("sparse", "splade")
    assert backend.card.gives == {"dense", "sparse"}
    rows, expected = run(backend, "sparse"), theirs_splade(folder)
    assert sum(len(row.indices) for row in rows) < expected.size
    found = dense(rows, backend.dimension)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)
    np.testing.assert_array_equal(found, ours(backend))


def test_splade_rows_in_float32_of_a_model_that_is_not(tmp_path: Path) -> None:
    folder = build_splade(tmp_path, FAMILIES["bert"], SpladePooling("max"))
    backend = warmed(folder, "bfloat16")
    batch = Batch.pack(backend.tokenizer.encode(["The fox", "a dog"]), output="sparse")
    for exact, rounded in zip(
        backend.forward_in_float32(batch), backend.launch(batch)(), strict=True
    ):
        assert isinstance(exact, SparseRow)
        assert isinstance(rounded, SparseRow)
        pair = dense([exact, rounded], backend.dimension)
        assert 0.999 < cosines(pair[:1], pair[1:])[0] < 1


@pytest.fixture(scope="module")
def with_sparse_head(tmp_path_factory: pytest.TempPathFactory, built: Build) -> Path:
    """A folder as BGE-M3's: a sparse head's weights beside the transformer's."""
    folder = tmp_path_factory.mktemp("m3") / "model"
    shutil.copytree(built("xlm-roberta", Normalize(), pooling="cls"), folder)
    torch.manual_seed(3)
    torch.save(nn.Linear(32, 1).state_dict(), folder / "sparse_linear.pt")
    return folder


def bge_m3_weights(folder: Path, texts: Sequence[str] = TEXTS) -> list[dict[int, float]]:
    """What BGE-M3's formula gives, a text at a time."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    head = torch.load(folder / "sparse_linear.pt", weights_only=True)
    names = ("cls_token_id", "eos_token_id", "pad_token_id", "unk_token_id")
    unused = {getattr(tokenizer, name) for name in names}
    found: list[dict[int, float]] = []
    for text in texts:
        encoded = tokenizer(text, truncation=True, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**encoded).last_hidden_state[0]
        values = torch.relu(hidden @ head["weight"].T + head["bias"])[:, 0]
        weights: dict[int, float] = defaultdict(float)
        for word, value in zip(encoded["input_ids"][0].tolist(), values.tolist(), strict=True):
            if word not in unused and value > 0:
                weights[word] = max(weights[word], value)
        found.append(weights)
    return found


def assert_weights(rows: Sequence[SparseRow], expected: Sequence[dict[int, float]]) -> None:
    for row, weights in zip(rows, expected, strict=True):
        assert row.indices.tolist() == sorted(weights)
        np.testing.assert_allclose(row.values, [weights[i] for i in sorted(weights)], atol=1e-5)


@pytest.mark.parametrize("way", ["packed", "padded"])
def test_a_sparse_head_gives_the_weights_of_bge_m3(with_sparse_head: Path, way: str) -> None:
    backend = load(with_sparse_head, pickle_weights=True)
    prove(backend, packed=way == "packed")
    assert backend.transformer.packed == (way == "packed")
    assert backend.card.kind == "embedding"
    assert backend.card.gives == {"dense", "sparse", "tokens"}
    expected = bge_m3_weights(with_sparse_head)
    assert sum(map(len, expected)) > len(TEXTS)
    assert_weights(run(backend, "sparse"), expected)
    assert_same(ours(backend), theirs(with_sparse_head))


def test_a_sparse_head_may_be_safetensors(with_sparse_head: Path, tmp_path: Path) -> None:
    shutil.copytree(with_sparse_head, tmp_path, dirs_exist_ok=True)
    weights = torch.load(tmp_path / "sparse_linear.pt", weights_only=True)
    (tmp_path / "sparse_linear.pt").unlink()
    save_file(weights, tmp_path / "sparse_linear.safetensors")
    assert_weights(run(warmed(tmp_path), "sparse"), bge_m3_weights(with_sparse_head))


def test_a_pickled_sparse_head_is_left_alone_unless_allowed(with_sparse_head: Path) -> None:
    card = load(with_sparse_head).card
    assert card.gives == {"dense", "tokens"}
    assert "sparse_linear.pt" in card.lacks["sparse"]
    assert "pickle_weights" in card.lacks["sparse"]


def test_a_prompt_that_is_not_pooled_has_no_weight(with_sparse_head: Path) -> None:
    backend = warmed(with_sparse_head, pickle_weights=True)
    rows = zip(
        run(backend, "sparse", CORPUS, unpooled=20),
        run(backend, "sparse", CORPUS),
        backend.tokenizer.encode(list(CORPUS)),
        strict=True,
    )
    for row, whole, ids in rows:
        assert len(whole.indices)
        assert set(row.indices) <= set(whole.indices) & set(ids[20:])
        assert len(row.indices) < len(whole.indices)


def test_a_sparse_head_is_put_away_with_its_model(with_sparse_head: Path, swap: Path) -> None:
    backend = warmed(with_sparse_head, pickle_weights=True)
    before = run(backend, "sparse")
    backend.park(Parking("disk", swap))
    with pytest.raises(RuntimeError, match="put away"):
        run(backend, "sparse")
    backend.restore()
    np.testing.assert_array_equal(
        dense(run(backend, "sparse"), backend.vocabulary_size),
        dense(before, backend.vocabulary_size),
    )
    backend.close()


@pytest.mark.parametrize("content", [{"weight": torch.ones(1, 7), "bias": torch.ones(1)}, None])
def test_a_broken_sparse_head_is_told_of(
    with_sparse_head: Path, tmp_path: Path, content: dict[str, torch.Tensor] | None
) -> None:
    shutil.copytree(with_sparse_head, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "sparse_linear.safetensors"
    file.write_bytes(b"?") if content is None else save_file(content, file)
    with pytest.raises(ModelUnavailable, match="sparse_linear"):
        load(tmp_path)


def their_tokens(folder: Path, prompt: str = "") -> list[FloatMatrix]:
    reference = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    vectors = reference.encode(
        list(TEXTS), prompt=prompt, output_value="token_embeddings", show_progress_bar=False
    )
    return [each.numpy() for each in vectors]


@pytest.mark.parametrize("family", ["bert", "gemma3", "mpnet"])
@pytest.mark.parametrize("prompt", ["", PROMPTS["query"]])
def test_vectors_of_tokens_are_those_of_the_last_layer(
    family: str, prompt: str, built: Build
) -> None:
    folder = built(family)
    backend = warmed(folder)
    assert backend.transformer.packed == FAMILIES[family].packed
    found = run(backend, "tokens", [f"{prompt}{text}" for text in TEXTS])
    for row, expected in zip(found, their_tokens(folder, prompt), strict=True):
        assert_same(row, expected)


@pytest.mark.parametrize("modules", BEFORE.values(), ids=BEFORE)
def test_modules_before_the_pooling_shape_the_tokens(
    modules: list[nn.Module], built: Build
) -> None:
    folder = built("bert", Normalize(), before=modules, pooling="mean")
    for row, expected in zip(run(warmed(folder), "tokens"), their_tokens(folder), strict=True):
        assert_same(row, expected)


@pytest.mark.parametrize("family", ["bert", "roberta", "gemma3"])
def test_tokens_are_pieces_of_the_text_and_their_ids_make_it_again(
    family: str, built: Build
) -> None:
    folder = built(family)
    tokenizer, reference = load(folder).tokenizer, AutoTokenizer.from_pretrained(folder)
    text = "The quick brown fox, zwölf 中文 dogs"
    (tokens,) = tokenizer.split([text])
    assert [token.id for token in tokens] == reference(text)["input_ids"]
    names = reference.convert_ids_to_tokens([token.id for token in tokens])
    for token, name in zip(tokens, names, strict=True):
        if token.special:
            assert (token.text, token.start, token.stop) == (name, None, None)
        else:
            assert token.text == text[token.start : token.stop]
    (bare,) = tokenizer.split([text], add_special_tokens=False)
    assert bare == [token for token in tokens if not token.special]
    assert len(bare) < len(tokens)
    ids = [token.id for token in tokens]
    for skip in (True, False):
        (found,) = tokenizer.decode([ids], skip_special_tokens=skip)
        assert found == reference.decode(
            ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
        )
