# SPDX-License-Identifier: Apache-2.0
"""A model without weights: it counts words and answers at once."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable

import numpy as np

from appliance.engine.types import Batch, FloatMatrix, TokenArray, TruncationDirection
from appliance.settings import ModelSettings, Settings

START, END = 0, 1
VOCABULARY_SIZE = 50_000


class FakeTokenizer:
    """One token a word, by its checksum, between a first and a last special token."""

    def encode(self, texts: list[str]) -> list[TokenArray]:
        return [
            np.array([START, *(word_id(word) for word in text.split()), END], dtype=np.int64)
            for text in texts
        ]

    def prompt_length(self, prompt: str) -> int:
        return 1 + len(prompt.split())

    def cut(
        self, ids: TokenArray, limit: int, direction: TruncationDirection, keep_first: int = 0
    ) -> TokenArray:
        first = max(keep_first, 1)
        content, room = ids[first:-1], limit - first - 1
        kept = content[:room] if direction == "right" else content[len(content) - room :]
        return np.array([*ids[:first], *kept, END], dtype=np.int64)


def word_id(word: str) -> int:
    """The fake vocabulary's id of a word."""
    return 2 + zlib.crc32(word.encode()) % (VOCABULARY_SIZE - 2)


class FakeBackend:
    """A vector that is a function of the ids alone, so that a mix-up shows.

    Args:
        dimension: Values of a vector.
        max_input_tokens: Longest text.
        before_forward: Called with each batch before it is answered; may block or raise.
    """

    def __init__(
        self,
        dimension: int = 8,
        max_input_tokens: int = 32,
        before_forward: Callable[[Batch], None] | None = None,
    ) -> None:
        self.device_name = "cpu"
        self.is_half_precision = False
        self.runs_alone = False
        self.prompts: dict[str, str] = {"query": "find: ", "passage": "fact: "}
        self.default_prompt_name: str | None = None
        self.pools_prompt = True
        self.tokenizer = FakeTokenizer()
        self.vocabulary_size = VOCABULARY_SIZE
        self.dimension = dimension
        self.max_input_tokens = max_input_tokens
        self.batches: list[list[int]] = []
        self._before_forward = before_forward
        self._lock = threading.Lock()

    def forward_in_float32(self, batch: Batch) -> FloatMatrix:
        raise AssertionError("it computes in float32 as it is")

    def warm_up(self, batch_tokens: int) -> None:
        """Nothing to warm."""

    def launch(self, batch: Batch) -> Callable[[], FloatMatrix]:
        vectors = self.forward(batch)
        return lambda: vectors

    def forward(self, batch: Batch) -> FloatMatrix:
        with self._lock:
            self.batches.append(batch.lengths.tolist())
        if self._before_forward is not None:
            self._before_forward(batch)
        texts = np.split(batch.input_ids, batch.cu_seqlens[1:-1])
        return np.stack([fake_vector(text, self.dimension) for text in texts])


def fake_vector(ids: TokenArray, dimension: int = 8) -> np.ndarray:
    """The fake model's own output for a text, not of unit length."""
    generator = np.random.default_rng(zlib.crc32(ids.tobytes()))
    return generator.normal(size=dimension).astype(np.float32) * 3


def load_fake(_settings: Settings, _model: ModelSettings) -> list[FakeBackend]:
    """A loader for ``create_app``."""
    return [FakeBackend()]
