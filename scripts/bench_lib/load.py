# SPDX-License-Identifier: Apache-2.0
"""The texts that every system is given: fixed by a seed, counted by the model's own tokenizer."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from tokenizers import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["BATCH_TOKENS", "Load", "Shape", "batch_tokens", "make_load", "request_bodies"]

Shape = Literal["short", "mixed", "long"]

BATCH_TOKENS = 1024
"""Tokens a batch of the GEMM floor."""

LOG_MEAN, LOG_DEVIATION = 3.4, 0.9
LEAST_WORDS, MOST_WORDS = 1, 240
"""Of mixed texts, whose lengths are lognormal."""

EVEN_WORDS: dict[Shape, tuple[int, int]] = {"short": (8, 18), "long": (198, 254)}
"""Of texts of similar length: 10 to 20 tokens, and 200 to 256, which MiniLM just reads."""

# Each is one token of BERT's vocabulary, so that a text's tokens are its words + 2.
WORDS = """
the of and to in for on with as by at from that this which when where while after before
people world house water country city school family morning evening winter summer river mountain
forest garden window table letter paper music story picture question answer problem reason result
system network machine engine computer program language number point line power energy light sound
market company worker doctor teacher student writer artist king army battle history science theory
method research report study model value measure temperature weather animal bird horse fish
small large early late strong simple common public private local modern ancient quiet happy dark
make take give find keep leave begin change follow carry build write read speak listen remember
often never always perhaps almost again together quickly slowly clearly north south east west
"""


@dataclass(frozen=True)
class Load:
    """Texts for the throughput rows and one short text for the latency rows."""

    texts: tuple[str, ...]
    token_counts: tuple[int, ...]
    lone_text: str
    lone_tokens: int

    @property
    def tokens(self) -> int:
        return sum(self.token_counts)

    def first(self, count: int) -> Load:
        """Its first texts."""
        return replace(self, texts=self.texts[:count], token_counts=self.token_counts[:count])


def make_load(model_folder: Path, count: int, seed: int, shape: Shape = "mixed") -> Load:
    """Draw `count` texts."""
    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    # MiniLM's file cuts at 128 tokens and pads to them: neither is what the model is served with.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    generator = random.Random(seed)
    texts = tuple(_text(generator, shape) for _ in range(count))
    lone_text = "the quick answer to a simple question"
    *counts, lone_tokens = (len(one.ids) for one in tokenizer.encode_batch([*texts, lone_text]))
    return Load(texts, tuple(counts), lone_text, lone_tokens)


def _text(generator: random.Random, shape: Shape) -> str:
    if shape == "mixed":
        drawn = int(generator.lognormvariate(LOG_MEAN, LOG_DEVIATION))
        words = min(max(drawn, LEAST_WORDS), MOST_WORDS)
    else:
        words = generator.randint(*EVEN_WORDS[shape])
    return " ".join(generator.choices(WORDS.split(), k=words))


def batch_tokens(token_counts: Sequence[int], budget: int = BATCH_TOKENS) -> list[int]:
    """Tokens of each batch when whole texts are packed, in order, up to the budget."""
    batches = [0]
    for count in token_counts:
        if batches[-1] and batches[-1] + count > budget:
            batches.append(0)
        batches[-1] += count
    return batches


def request_bodies(texts: Sequence[str], texts_per_request: int, model: str) -> Iterator[bytes]:
    """Bodies made before the clock starts; base64 is what the openai package asks for too."""
    for start in range(0, len(texts), texts_per_request):
        chunk = list(texts[start : start + texts_per_request])
        yield json.dumps({"model": model, "input": chunk, "encoding_format": "base64"}).encode()
