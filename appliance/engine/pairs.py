# SPDX-License-Identifier: Apache-2.0
"""Two texts as the one row of tokens that a cross-encoder reads.

What stands before, between and behind them is the tokenizer's own to say, and is read off a pair
that it has put together. A pair that is too long loses tokens of its longer half first, by the rule
of Hugging Face's tokenizers (``longest_first``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from appliance.engine.types import PairTokens, TokenArray, TruncationDirection

__all__ = ["PairTemplate", "encode_pairs", "longest_first"]

_UNKNOWN = 2**31
"""Stands for the tokens of a text that was not read to its end."""

EncodeStarts = Callable[[list[str]], list[tuple[TokenArray, bool]]]
"""Ids of as much of each text as matters, without special tokens, and whether that is all of it."""


class _Part(NamedTuple):
    half: int | None
    """Which half of the pair stands here; ``None`` for special tokens."""
    ids: TokenArray
    token_type: int


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """What a tokenizer makes of a pair.

    Attributes:
        parts: Special tokens and halves, in order.
        special_tokens: How many of the former there are.
    """

    parts: tuple[_Part, ...]
    special_tokens: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, token_types: bool) -> PairTemplate:
        """Read the template off a tokenizer that neither cuts nor pads.

        Args:
            tokenizer: The tokenizer.
            token_types: Whether its model is told the two kinds of tokens apart.

        Raises:
            ValueError: Tokens of the first kind come after some of the second, or there are more
                kinds than two.
        """
        encoding = tokenizer.encode("a", "b")
        types = encoding.type_ids if token_types else [0] * len(encoding.ids)
        if types != sorted(types) or types[-1:] > [1]:
            raise ValueError(f"it gives the tokens of a pair the types {types}")
        rows = zip(encoding.sequence_ids, types, encoding.ids, strict=True)
        parts = tuple(
            _Part(half, np.array([number for *_, number in group], dtype=np.int64), token_type)
            for (half, token_type), group in groupby(rows, key=lambda row: row[:2])
        )
        return cls(parts, encoding.sequence_ids.count(None))

    def join(self, first: TokenArray, second: TokenArray) -> tuple[TokenArray, int]:
        """Put two halves together.

        Returns:
            All ids, and the first token of the second kind; 0 where there is but one kind.
        """
        halves = (first, second)
        pieces = [part.ids if part.half is None else halves[part.half] for part in self.parts]
        kinds = zip(pieces, self.parts, strict=True)
        of_first_kind = sum(len(piece) for piece, part in kinds if not part.token_type)
        ids = np.concatenate(pieces)
        return ids, of_first_kind if of_first_kind < len(ids) else 0


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens two halves keep of those they have.

    The longer half is cut to what the shorter leaves of the room, or both to a half of the room
    each, of which the longer one gets the odd token, or the second of two that are equal.
    """
    if first + second <= room:
        return first, second
    shorter = min(first, second)
    longer = max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room - room // 2
    return (shorter, longer) if first <= second else (longer, shorter)


def encode_pairs(
    pairs: Sequence[tuple[str, str]],
    template: PairTemplate,
    encode_starts: EncodeStarts,
    limit: int,
    direction: TruncationDirection,
) -> list[PairTokens]:
    """Turn pairs into rows of at most ``limit`` tokens.

    Args:
        pairs: The texts.
        template: How they are put together.
        encode_starts: Turns texts into ids. Which of two texts that it does not read to their end
            is the longer is not known: they count as equal.
        limit: Most tokens of a pair, special tokens included.
        direction: The end that both halves of a pair that is too long are cut at.
    """
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))  # a query comes often
    halves = dict(zip(texts, encode_starts(texts), strict=True))
    room = max(limit - template.special_tokens, 0)
    found: list[PairTokens] = []
    for pair in pairs:
        (first, first_is_whole), (second, second_is_whole) = halves[pair[0]], halves[pair[1]]
        lengths = (
            len(first) if first_is_whole else _UNKNOWN,
            len(second) if second_is_whole else _UNKNOWN,
        )
        kept = longest_first(*lengths, room)
        ids, second_start = template.join(
            _cut(first, kept[0], direction), _cut(second, kept[1], direction)
        )
        is_whole = first_is_whole and second_is_whole
        count = sum(lengths) + template.special_tokens if is_whole else None
        found.append(PairTokens(ids, second_start, kept != lengths, count))
    return found


def _cut(ids: TokenArray, length: int, direction: TruncationDirection) -> TokenArray:
    return ids[:length] if direction == "right" else ids[len(ids) - length :]
