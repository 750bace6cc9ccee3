# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from appliance.engine.tokenizer import ModelTokenizer
from appliance.errors import ModelUnavailable
from tests.parity.vocabularies import byte_pairs, wordpiece

KINDS: dict[str, Callable[[], Tokenizer]] = {
    "first and last": wordpiece,
    "no special tokens": byte_pairs,
    "last only": lambda: byte_pairs(["<eos>"], "$A <eos>"),
    "first only": lambda: byte_pairs(["<bos>"], "<bos> $A"),
    "two first": lambda: byte_pairs(["<a>", "<b>"], "<a> <b> $A <a>"),
}
SPECIALS = {
    "first and last": 2,
    "no special tokens": 0,
    "last only": 1,
    "first only": 1,
    "two first": 3,
}
KINDS_WITH_LAST = {kind: not kind.startswith(("no", "first only")) for kind in KINDS}
TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind."


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def stored(kind: str) -> str:
    return KINDS[kind]().to_str()


def save(tokenizer: Tokenizer, folder: Path, **config: object) -> Path:
    """Write a tokenizer's files as a model's folder has them."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def load(folder: Path, *, lower_case: bool = False) -> tuple[ModelTokenizer, int]:
    return ModelTokenizer.load(folder, lower_case=lower_case, trust_remote_code=False)


def test_special_tokens_are_counted(kind: str, stored: str) -> None:
    assert ModelTokenizer(Tokenizer.from_str(stored)).special_tokens == SPECIALS[kind]


def test_texts_become_ids_with_special_tokens(stored: str) -> None:
    plain = Tokenizer.from_str(stored)
    texts = [TEXT, "a", "Zwölf, 42"]
    encoded = ModelTokenizer(Tokenizer.from_str(stored)).encode(texts)
    assert [ids.tolist() for ids in encoded] == [plain.encode(text).ids for text in texts]
    assert {ids.dtype for ids in encoded} == {np.dtype(np.int64)}


@pytest.mark.parametrize("direction", ["left", "right"])
@given(
    text=st.text(st.sampled_from("abcdefgh ,.ZÖ1"), min_size=1, max_size=40),
    room=st.integers(0, 20),
)
def test_a_cut_is_what_the_tokenizers_own_truncation_gives(
    direction: Literal["left", "right"], kind: str, stored: str, text: str, room: int
) -> None:
    limit = SPECIALS[kind] + max(room, 1)
    truncating = Tokenizer.from_str(stored)
    truncating.enable_truncation(limit, direction=direction)
    tokenizer = ModelTokenizer(Tokenizer.from_str(stored))
    (ids,) = tokenizer.encode([text])
    cut = tokenizer.cut(ids, limit, direction) if len(ids) > limit else ids
    assert cut.tolist() == truncating.encode(text).ids


@pytest.mark.parametrize("direction", ["left", "right"])
def test_a_cut_with_no_room_keeps_the_special_tokens_only(
    direction: Literal["left", "right"], kind: str, stored: str
) -> None:
    tokenizer = ModelTokenizer(Tokenizer.from_str(stored))
    (ids,) = tokenizer.encode([TEXT])
    assert len(tokenizer.cut(ids, SPECIALS[kind], direction)) == SPECIALS[kind]


def test_a_prompts_length_is_where_the_text_behind_it_begins(kind: str, stored: str) -> None:
    tokenizer = ModelTokenizer(Tokenizer.from_str(stored))
    alone, together = tokenizer.encode(["look:", "look: the dog"])
    length = tokenizer.prompt_length("look:")
    assert length == len(alone) - KINDS_WITH_LAST[kind]
    assert alone[:length].tolist() == together[:length].tolist()


def test_truncation_that_came_with_the_file_is_off(stored: str) -> None:
    truncating = Tokenizer.from_str(stored)
    truncating.enable_truncation(5)
    assert len(ModelTokenizer(truncating).encode([TEXT])[0]) > 5


def test_padding_that_came_with_the_file_is_off(stored: str) -> None:
    padding = Tokenizer.from_str(stored)
    padding.enable_padding(length=64)
    short, _ = ModelTokenizer(padding).encode(["a", TEXT])
    assert len(short) < 10


def test_the_vocabulary_counts_added_tokens(stored: str) -> None:
    tokenizer = Tokenizer.from_str(stored)
    before = ModelTokenizer(tokenizer).vocabulary_size
    tokenizer.add_special_tokens(["<query>"])
    assert ModelTokenizer(tokenizer).vocabulary_size == before + 1


def test_every_id_is_below_the_vocabularys_size() -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "z": 9}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model_tokenizer = ModelTokenizer(tokenizer)
    (ids,) = model_tokenizer.encode(["a z"])
    assert ids.max() < model_tokenizer.vocabulary_size


def test_a_tokenizer_is_read_from_a_models_folder(tmp_path: Path) -> None:
    saved = wordpiece()
    tokenizer, longest = load(save(saved, tmp_path, model_max_length=77))
    assert longest == 77
    assert tokenizer.encode([TEXT])[0].tolist() == saved.encode(TEXT).ids


def test_truncation_and_padding_in_a_models_folder_are_off(tmp_path: Path) -> None:
    plain = wordpiece()
    baked = Tokenizer.from_str(plain.to_str())
    baked.enable_truncation(8)
    baked.enable_padding(length=8)
    tokenizer, _ = load(save(baked, tmp_path))
    short, long = tokenizer.encode(["a", TEXT])
    assert len(short) == 3
    assert long.tolist() == plain.encode(TEXT).ids


def test_text_is_lowered_first_where_that_is_asked_for(tmp_path: Path) -> None:
    cased = byte_pairs(["[UNK]"])
    tokenizer, _ = load(save(cased, tmp_path), lower_case=True)
    assert tokenizer.encode(["The FOX"])[0].tolist() == cased.encode("the fox").ids


@pytest.mark.parametrize("family", ["bert", "qwen3", "mpnet", "modernbert"])
def test_a_folder_without_a_tokenizer_is_refused(family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    with pytest.raises(ModelUnavailable, match="tokenizer"):
        load(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"version": "1.0"}'])
def test_a_broken_tokenizer_file_is_refused(content: str, tmp_path: Path) -> None:
    save(wordpiece(), tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelUnavailable, match="its tokenizer cannot be read"):
        load(tmp_path)
