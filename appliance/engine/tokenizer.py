# SPDX-License-Identifier: Apache-2.0
"""Text to token ids with a model's own tokenizer."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer, normalizers, processors
from transformers import AutoTokenizer

from appliance.engine.pairs import PairTemplate, encode_pairs
from appliance.engine.remote_code import told
from appliance.engine.splitting import can_split, first_part
from appliance.engine.types import PairTokens, Token, TokenArray, TruncationDirection
from appliance.errors import ModelUnavailable

__all__ = ["NO_LIMIT", "ModelTokenizer"]

NO_LIMIT = 10**9
"""transformers states a larger number where a tokenizer's files state none."""

CHARACTERS_PER_TOKEN = 8
FIRST_CHARACTERS = 4096
"""How much of a long text is read first, to see whether it is too long: more than prose takes."""

_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken")

# Texts are shared out over the threads of a pool; a second pool inside each would fight with it.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class ModelTokenizer:
    """The Rust tokenizer of one model; it frees the interpreter while it works.

    Args:
        tokenizer: Tokenizer whose post-processor adds the model's special tokens. Truncation and
            padding that came with its file are switched off: both are decided per request.
        token_types: Whether the model is told the two kinds of a pair's tokens apart.
        wordless: Ids that stand for no word: of a text's first and last token, of the padding, and
            of what the vocabulary does not have.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, token_types: bool = False, wordless: Collection[int] = ()
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._token_types = token_types
        self.wordless = frozenset(wordless)
        # Ids may have gaps, so that their number is not their end.
        self.vocabulary_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        mask = tokenizer.encode("a").special_tokens_mask
        self._prefix = next((i for i, special in enumerate(mask) if not special), len(mask))
        self._suffix = len(mask) - self._prefix - mask.count(0)
        self.special_tokens = self._prefix + self._suffix
        self._can_split = can_split(tokenizer)

    @classmethod
    def load(
        cls, folder: Path, *, lower_case: bool, trust_remote_code: bool
    ) -> tuple[ModelTokenizer, int]:
        """Read a tokenizer from a model's folder.

        Args:
            folder: Local folder with the tokenizer's files.
            lower_case: Lower the text first, whatever the tokenizer's own files say.
            trust_remote_code: Allow a tokenizer class that comes with the model.

        Returns:
            The tokenizer, and the longest input that its files state.

        Raises:
            ModelUnavailable: The folder holds no tokenizer that can be read.
        """
        # Without any, transformers makes up a tokenizer that knows no word.
        if not any(path for pattern in _VOCABULARIES for path in folder.glob(pattern)):
            raise ModelUnavailable("its tokenizer is missing: there is no tokenizer.json")
        try:
            loaded = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=trust_remote_code
            )
        except Exception as error:  # broken files surface as any kind of error
            raise ModelUnavailable(f"its tokenizer cannot be read: {told(error)}") from error
        if not loaded.is_fast:
            raise ModelUnavailable(
                f"its tokenizer {type(loaded).__name__} has no fast form (tokenizer.json)"
            )
        tokenizer: Tokenizer = loaded.backend_tokenizer
        if lower_case:
            own = [tokenizer.normalizer] if tokenizer.normalizer else []
            tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
        token_types = "token_type_ids" in loaded.model_input_names
        # Those that BGE-M3's own code passes over.
        wordless = {getattr(loaded, f"{name}_token_id") for name in ("cls", "eos", "pad", "unk")}
        made = cls(tokenizer, token_types=token_types, wordless=wordless - {None})
        return made, int(loaded.model_max_length)

    @classmethod
    def load_bare(cls, folder: Path) -> tuple[ModelTokenizer, int]:
        """Read a ``tokenizer.json`` that stands alone, and add no special tokens to texts.

        Args:
            folder: Local folder with the file.

        Returns:
            The tokenizer, and the longest input that its file states.

        Raises:
            ModelUnavailable: The file is missing or broken.
        """
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises no class of its own
            raise ModelUnavailable(f"its tokenizer.json cannot be read: {error}") from error
        stated = (tokenizer.truncation or {}).get("max_length", NO_LIMIT + 1)
        tokenizer.post_processor = processors.Sequence([])
        return cls(tokenizer), int(stated)

    def encode(self, texts: list[str]) -> list[TokenArray]:
        """Ids of each text in full, special tokens included."""
        encodings = self._tokenizer.encode_batch_fast(texts)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def encode_starts(self, texts: list[str], enough: int) -> list[tuple[TokenArray, bool]]:
        """Ids of as much of each text as matters; see :meth:`TextTokenizer.encode_starts`."""
        found: dict[int, tuple[TokenArray, bool]] = {}
        characters = max(FIRST_CHARACTERS, enough * CHARACTERS_PER_TOKEN)
        while waiting := [number for number in range(len(texts)) if number not in found]:
            parts = [self._first_part(texts[number], characters) for number in waiting]
            for number, part, ids in zip(waiting, parts, self.encode(parts), strict=True):
                is_whole = len(part) == len(texts[number])
                if is_whole or len(ids) > enough:
                    found[number] = ids, is_whole
            characters *= 4
        return [found[number] for number in range(len(texts))]

    def _first_part(self, text: str, characters: int) -> str:
        return first_part(text, characters) if self._can_split else text

    @cached_property
    def pair_template(self) -> PairTemplate:
        """What it makes of two texts.

        Raises:
            ModelUnavailable: Something that is not known.
        """
        try:
            return PairTemplate.of(self._tokenizer, token_types=self._token_types)
        except ValueError as error:
            raise ModelUnavailable(f"its tokenizer cannot be used for pairs: {error}") from error

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], limit: int, direction: TruncationDirection
    ) -> list[PairTokens]:
        """Ids of pairs of texts, each cut to ``limit`` tokens; see :func:`.pairs.encode_pairs`."""

        def encode(texts: list[str]) -> list[tuple[TokenArray, bool]]:
            # Who wants a text's end has it read in full.
            enough = sys.maxsize if direction == "left" else limit + self.special_tokens
            starts = self.encode_starts(texts, enough)
            return [(ids[self._prefix : len(ids) - self._suffix], whole) for ids, whole in starts]

        return encode_pairs(pairs, self.pair_template, encode, limit, direction)

    def prompt_length(self, prompt: str) -> int:
        """Tokens that a prompt takes up at the start of a text, special tokens before it too."""
        return len(self._tokenizer.encode(prompt).ids) - min(self._suffix, 1)

    def split(self, texts: list[str], *, add_special_tokens: bool = True) -> list[list[Token]]:
        """The tokens of each text, and where each lies in it."""
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)
        return [_tokens_of(text, each) for text, each in zip(texts, encodings, strict=True)]

    def decode(
        self, ids: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        """The text that each list of ids stands for."""
        lists = [list(each) for each in ids]
        texts: list[str] = self._tokenizer.decode_batch(
            lists, skip_special_tokens=skip_special_tokens
        )
        return texts

    def cut(
        self, ids: TokenArray, limit: int, direction: TruncationDirection, keep_first: int = 0
    ) -> TokenArray:
        """The ids of the same text cut to ``limit`` tokens; see :meth:`TextTokenizer.cut`."""
        start, end = max(self._prefix, keep_first), len(ids) - self._suffix
        content = ids[start:end]
        room = max(limit - start - self._suffix, 0)
        kept = content[:room] if direction == "right" else content[len(content) - room :]
        head = ids[: max(min(start, limit - self._suffix), 0)]
        return np.concatenate((head, kept, ids[end:]))


def _tokens_of(text: str, encoding: Encoding) -> list[Token]:
    rows = zip(
        encoding.ids,
        encoding.tokens,
        encoding.offsets,
        encoding.special_tokens_mask,
        strict=True,
    )
    return [
        Token(number, name, special=True, start=None, stop=None)
        if special
        else Token(number, text[start:stop], special=False, start=start, stop=stop)
        for number, name, (start, stop), special in rows
    ]
