# SPDX-License-Identifier: Apache-2.0
"""Where a text can be split so that the tokens before are those of the whole text.

Most tokenizers split a text into words first and then each word into tokens, so that nothing after
a word changes its tokens. Between two plain letters with one space in between, every one of the
steps below ends a word, and none looks further than that space.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

__all__ = ["can_split", "first_part"]

_GAP = re.compile(r"[A-Za-z](?= [A-Za-z])")

# Steps that change or split a text by what stands at a place and next to it, by type.
_LOCAL = {
    *("BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled"),
    *("Lowercase", "StripAccents", "Strip", "Prepend"),
    *("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Digits", "Punctuation"),
    *("ByteLevel", "Metaspace"),
}
_PROBE = "The quick brown fox's 12 dogs do  not mind, says\nan old Fox"


def can_split(tokenizer: Tokenizer) -> bool:
    """Whether the rule above holds for a tokenizer. Where that is not known, it does not."""
    steps = [*_steps(tokenizer.normalizer), *_steps(tokenizer.pre_tokenizer)]
    if not all(_is_local(step) for step in steps):
        return False
    added = tokenizer.get_added_tokens_decoder().values()
    if not _splits_words(tokenizer) or any(re.search(r"\s", each.content) for each in added):
        return False
    whole = tokenizer.encode(_PROBE, add_special_tokens=False).ids
    parts = (_PROBE[: gap.end()] for gap in _GAP.finditer(_PROBE))
    starts = (tokenizer.encode(part, add_special_tokens=False).ids for part in parts)
    return all(whole[: len(start)] == start for start in starts)


def _splits_words(tokenizer: Tokenizer) -> bool:
    if tokenizer.pre_tokenizer is None:
        return False
    text = tokenizer.normalizer.normalize_str("ab cd") if tokenizer.normalizer else "ab cd"
    words = [word.lower() for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    return not any("b" in word and "c" in word for word in words)


def first_part(text: str, characters: int) -> str:
    """The start of a text up to the first place to split it that lies so far in, or all of it."""
    gap = _GAP.search(text, characters) if len(text) > characters else None
    return text if gap is None else text[: gap.end()]


def _steps(component: Any) -> Iterator[dict[str, Any]]:
    """What a normalizer or a pre-tokenizer does, one after the other."""
    if component is not None:
        yield from _flat(json.loads(component.__getstate__()))


def _flat(step: dict[str, Any]) -> Iterator[dict[str, Any]]:
    parts = step.get("normalizers") or step.get("pretokenizers")
    if parts is None:
        yield step
    for part in parts or ():
        yield from _flat(part)


def _is_local(step: dict[str, Any]) -> bool:
    match step:
        case {"type": "Replace", "pattern": {"String": pattern}}:
            return len(pattern) == 1
        case {"type": "Replace", "pattern": {"Regex": pattern}}:
            return bool(pattern == " {2,}")
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}:
            # Looks no further than one character past white space, as GPT's and its heirs' do.
            plain = re.sub(r"\(\?!\\S\)|\(\?(i|-i)?:", "", pattern)
            return not step.get("invert") and "(?" not in plain
    return step["type"] in _LOCAL
