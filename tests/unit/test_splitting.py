# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from appliance.engine import tokenizer as tokenizer_module
from appliance.engine.splitting import can_split, first_part
from appliance.engine.tokenizer import ModelTokenizer
from appliance.engine.types import TokenArray
from tests.parity.vocabularies import CORPUS, DECODER, ROBERTA, WORDPIECE, byte_pairs

GPT_4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def with_pattern(pattern: str) -> Tokenizer:
    """Byte pairs whose words are those of a pattern, as GPT-4's are and Qwen's."""
    tokenizer = byte_pairs()
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def unigram(prepend_scheme: str = "always") -> Tokenizer:
    """Of XLM-RoBERTa's kind: words begin with a mark, and the likeliest pieces win."""
    words = sorted({word for text in CORPUS for word in text.split()})
    letters = sorted({letter for word in words for letter in word} | set("abcdefghijklmnopqrst"))
    pieces = [("<unk>", 0.0), ("▁", -3.0), *((letter, -6.0) for letter in letters)]
    pieces += [(f"▁{word[:4]}", -4.0) for word in words if len(word) > 3]
    pieces += [(word[-3:], -4.5) for word in words if len(word) > 4]
    tokenizer = Tokenizer(models.Unigram(list(dict(pieces).items()), unk_id=0))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme)
    return tokenizer


def as_one_word() -> Tokenizer:
    """Of Gemma's kind: spaces are marks, and a text is one word."""
    tokenizer = byte_pairs()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return tokenizer


def with_phrase() -> Tokenizer:
    tokenizer = WORDPIECE.make()
    tokenizer.add_tokens([AddedToken("fox jumps")])
    return tokenizer


SPLIT: dict[str, Callable[[], Tokenizer]] = {
    "wordpiece": WORDPIECE.make,
    "roberta": ROBERTA.make,
    "decoder": DECODER.make,
    "gpt-4": lambda: with_pattern(GPT_4),
    "unigram": unigram,
    "unigram, first": lambda: unigram("first"),
}
WHOLE: dict[str, Callable[[], Tokenizer]] = {
    "as one word": as_one_word,
    "a token of two words": with_phrase,
    "looks ahead": lambda: with_pattern(r"\p{L}+(?=.*dog)|\s+|\S"),
    "spans words": lambda: with_pattern(r"\p{L}+ \p{L}+|\s+|\S+"),
    "removes spaces": lambda: without_spaces(),
}


def without_spaces() -> Tokenizer:
    tokenizer = WORDPIECE.make()
    tokenizer.normalizer = normalizers.Replace(" ", "")
    return tokenizer


@pytest.mark.parametrize("kind", SPLIT)
def test_a_tokenizer_that_splits_words_first_is_told(kind: str) -> None:
    assert can_split(SPLIT[kind]())


@pytest.mark.parametrize("kind", WHOLE)
def test_any_other_is_not_taken_for_one(kind: str) -> None:
    assert not can_split(WHOLE[kind]())


def test_a_text_is_split_between_two_plain_words() -> None:
    assert first_part("one, two three four", 6) == "one, two"
    assert first_part("one, two three four", 8) == "one, two three"
    assert first_part("one, two", 3) == "one, two"
    assert first_part("one", 10**30) == "one"


PIECES = [
    *(
        "the",
        "fox",
        "Zwölf",
        "don't",
        "a",
        "I",
        "12",
        "1998,",
        "(Italy)",
        "x" * 150,
        "é",
        "e\u0301",
    ),
    *("中文", "[MASK]", "<mask>", "</s>", "▁", "'s", "👍🏽", "ﬁ", "\u00ad", "İ", "Σ"),
]
GAPS = [" ", " ", " ", "  ", "\n", "\t", " \n ", "\u00a0", "\u3000", ""]
TEXTS = st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(GAPS)), max_size=60).map(
    lambda parts: "".join(part for pair in parts for part in pair)
)


def content(ids: TokenArray, tokenizer: ModelTokenizer) -> list[int]:
    """Ids without the special tokens at the end."""
    return list(ids[: len(ids) - len(tokenizer.encode([""])[0]) + tokenizer._prefix].tolist())


@pytest.mark.parametrize("kind", [*SPLIT, *WHOLE])
def test_what_is_read_of_a_text_has_the_tokens_of_the_whole(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_module, "FIRST_CHARACTERS", 4)
    monkeypatch.setattr(tokenizer_module, "CHARACTERS_PER_TOKEN", 1)
    tokenizer = ModelTokenizer({**SPLIT, **WHOLE}[kind]())
    seen_parts = 0

    @given(texts=st.lists(TEXTS, min_size=1, max_size=3), enough=st.integers(4, 40))
    @example(texts=["one and another " * 20], enough=4)  # of which a start is enough
    def check(texts: Sequence[str], enough: int) -> None:
        nonlocal seen_parts
        whole = tokenizer.encode(list(texts))
        read = tokenizer.encode_starts(list(texts), enough)
        for full, (ids, is_whole) in zip(whole, read, strict=True):
            if is_whole:
                assert ids.tolist() == full.tolist()
                continue
            seen_parts += 1
            assert len(ids) > enough
            start = content(ids, tokenizer)
            assert full[: len(start)].tolist() == start
            cut, expected = (tokenizer.cut(each, enough, "right") for each in (ids, full))
            assert cut.tolist() == expected.tolist()

    check()
    assert bool(seen_parts) == (kind in SPLIT)


@pytest.mark.parametrize("kind", SPLIT)
def test_of_a_long_text_little_is_read(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = ModelTokenizer(SPLIT[kind]())
    read: list[int] = []
    encode = tokenizer.encode

    def counted(texts: list[str]) -> list[TokenArray]:
        read.extend(map(len, texts))
        return encode(texts)

    monkeypatch.setattr(tokenizer, "encode", counted)
    words = random.Random(3).choices(["fox", "dog", "the", "jumps"], k=250_000)
    ((ids, is_whole),) = tokenizer.encode_starts([" ".join(words)], 128)
    assert not is_whole
    assert len(ids) > 128
    assert sum(read) < 10_000
