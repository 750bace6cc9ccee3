# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from appliance.engine.pairs import PairTemplate, longest_first
from appliance.engine.tokenizer import FIRST_CHARACTERS, ModelTokenizer
from appliance.errors import ModelUnavailable
from tests.parity.vocabularies import byte_pairs, wordpiece

Direction = Literal["left", "right"]


def roberta() -> Tokenizer:
    tokenizer = byte_pairs(["<s>", "</s>"], "<s> $A </s>")
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return tokenizer


def swapped() -> Tokenizer:
    tokenizer = byte_pairs(["<s>", "</s>"], "<s> $A </s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $B </s> $A:1",
        special_tokens=[("<s>", 0), ("</s>", 1)],
    )
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "BERT's": wordpiece,
    "RoBERTa's": roberta,
    "no special tokens in a pair": lambda: byte_pairs(["<eos>"], "$A <eos>"),
    "no special tokens at all": byte_pairs,
    "second half first": swapped,
}
SPECIALS = dict(zip(KINDS, [3, 4, 0, 0, 2], strict=True))
WORDS = st.text(st.sampled_from("abcdefgh ,.ZÖ1"), max_size=40)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def ours(kind: str) -> ModelTokenizer:
    return ModelTokenizer(KINDS[kind](), token_types=True)


@pytest.fixture(scope="module")
def theirs(kind: str) -> Tokenizer:
    return KINDS[kind]()


def types(ids: int, second_start: int) -> list[int]:
    return [int(0 < second_start <= place) for place in range(ids)]


@pytest.mark.parametrize("direction", ["left", "right"])
@given(first=WORDS, second=WORDS, room=st.integers(0, 40))
def test_pairs_are_put_together_and_cut_as_by_the_tokenizers_own(
    direction: Direction,
    kind: str,
    ours: ModelTokenizer,
    theirs: Tokenizer,
    first: str,
    second: str,
    room: int,
) -> None:
    limit = SPECIALS[kind] + room
    theirs.no_truncation()
    whole = theirs.encode(first, second)
    if limit:  # to them, 0 is no limit
        theirs.enable_truncation(limit, strategy="longest_first", direction=direction)
    expected = theirs.encode(first, second)
    if not limit:
        return
    (found,) = ours.encode_pairs([(first, second)], limit, direction)
    assert found.ids.tolist() == expected.ids
    assert found.ids.dtype == np.int64
    if 0 in expected.type_ids:  # else all are of one kind
        assert types(len(found.ids), found.second_start) == expected.type_ids
    assert found.is_cut == (len(whole.ids) > limit)
    assert found.count == len(whole.ids)


def test_a_model_of_one_kind_of_tokens_is_told_of_none(kind: str) -> None:
    (found,) = ModelTokenizer(KINDS[kind]()).encode_pairs([("a b", "c d")], 20, "right")
    assert found.second_start == 0


def test_several_pairs_come_back_in_order(ours: ModelTokenizer, theirs: Tokenizer) -> None:
    theirs.no_truncation()
    pairs = [("query", "one"), ("query", ""), ("other", "query"), ("query", "one")]
    found = ours.encode_pairs(pairs, 100, "right")
    assert [row.ids.tolist() for row in found] == [theirs.encode(*pair).ids for pair in pairs]


@pytest.mark.parametrize("direction", ["left", "right"])
def test_very_long_texts_are_cut_alike(
    direction: Direction, ours: ModelTokenizer, theirs: Tokenizer
) -> None:
    short, long = "dog " * 7, "the quick brown fox " * FIRST_CHARACTERS
    pairs = [(short, long), (long, short), (long, f"{long} dog")]
    room = 41  # one token more for one of two halves
    limit = room + ours.pair_template.special_tokens
    found = ours.encode_pairs(pairs, limit, direction)
    assert all(row.is_cut for row in found)
    # What was not read to its end has no known length.
    assert all((row.count is None) == (direction == "right") for row in found)
    # Their own cut keeps what it takes away, in every way to pair the pieces; so not by that.
    theirs.no_truncation()
    for row, pair in zip(found, pairs, strict=True):
        halves = [theirs.encode(text, add_special_tokens=False).ids for text in pair]
        kept = longest_first(*map(len, halves), room)
        starts = [
            np.array(ids[:length] if direction == "right" else ids[len(ids) - length :])
            for ids, length in zip(halves, kept, strict=True)
        ]
        expected, _ = ours.pair_template.join(*starts)
        assert row.ids.tolist() == expected.tolist()


@given(first=st.integers(0, 50), second=st.integers(0, 50), room=st.integers(0, 60))
def test_halves_share_the_room(first: int, second: int, room: int) -> None:
    kept = longest_first(first, second, room)
    assert sum(kept) == min(first + second, room)
    assert kept[0] <= first
    assert kept[1] <= second
    cut = [number for number, length in enumerate((first, second)) if kept[number] < length]
    if len(cut) == 2:
        assert abs(kept[0] - kept[1]) <= 1
    if len(cut) == 1:
        assert kept[cut[0]] >= kept[1 - cut[0]]


@pytest.mark.parametrize("pair", ["$A:1 </s> $B:0", "$A </s> $B:2"])
def test_kinds_of_tokens_that_no_model_has_are_refused(pair: str) -> None:
    tokenizer = byte_pairs(["<s>", "</s>"], "<s> $A </s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair=pair, special_tokens=[("</s>", 1)]
    )
    with pytest.raises(ModelUnavailable, match=r"cannot be used for pairs: .* types"):
        _ = ModelTokenizer(tokenizer, token_types=True).pair_template
    assert isinstance(ModelTokenizer(tokenizer).pair_template, PairTemplate)
