# SPDX-License-Identifier: Apache-2.0
"""A model without weights: it counts words and answers at once."""

from __future__ import annotations

import re
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from appliance.engine.backend import Parking, Room
from appliance.engine.jobs import Batch
from appliance.engine.pairs import longest_first
from appliance.engine.types import (
    FloatMatrix,
    ModelCard,
    ModelKind,
    Output,
    PairTokens,
    SparseRow,
    Token,
    TokenArray,
    TruncationDirection,
)
from appliance.settings import ModelSettings, Settings

START, END = 0, 1
SPECIAL_TOKENS = {START: "[START]", END: "[END]"}
VOCABULARY_SIZE = 50_000
GIVES: dict[ModelKind, frozenset[Output]] = {
    "embedding": frozenset({"dense", "tokens"}),
    "sparse": frozenset({"dense", "sparse"}),
    "classifier": frozenset({"scores"}),
    "reranker": frozenset({"scores"}),
}
LABELS: dict[ModelKind, tuple[str, ...]] = {
    "classifier": ("negative", "neutral", "positive"),
    "reranker": ("LABEL_0",),
}


class FakeTokenizer:
    """One token a word, by its checksum, between a first and a last special token."""

    def __init__(self) -> None:
        self._seen: dict[int, str] = {}

    def encode(self, texts: list[str]) -> list[TokenArray]:
        return [
            np.array([START, *map(self._id_of, text.split()), END], dtype=np.int64)
            for text in texts
        ]

    def _id_of(self, word: str) -> int:
        number = word_id(word)
        self._seen[number] = word
        return number

    def split(self, texts: list[str], *, add_special_tokens: bool = True) -> list[list[Token]]:
        first, last = (Token(i, text, True, None, None) for i, text in SPECIAL_TOKENS.items())
        found = []
        for text in texts:
            words = [
                Token(self._id_of(word[0]), word[0], False, *word.span())
                for word in re.finditer(r"\S+", text)
            ]
            found.append([first, *words, last] if add_special_tokens else words)
        return found

    def decode(
        self, ids: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        """Words that it has read before; others are lost."""
        known = self._seen if skip_special_tokens else {**self._seen, **SPECIAL_TOKENS}
        return [" ".join(known[i] for i in text if i in known) for text in ids]

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], limit: int, direction: TruncationDirection
    ) -> list[PairTokens]:
        found = []
        for pair in pairs:
            halves = [ids[1:-1] for ids in self.encode(list(pair))]
            kept = longest_first(len(halves[0]), len(halves[1]), limit - 3)
            first, second = (
                half[:length] if direction == "right" else half[len(half) - length :]
                for half, length in zip(halves, kept, strict=True)
            )
            ids = np.concatenate(([START], first, [END], second, [END])).astype(np.int64)
            count = sum(map(len, halves)) + 3
            found.append(PairTokens(ids, len(first) + 2, count > limit, count))
        return found

    def encode_starts(self, texts: list[str], enough: int) -> list[tuple[TokenArray, bool]]:
        return [(ids, True) for ids in self.encode(texts)]

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
    """What it gives is a function of the ids alone, so that a mix-up shows.

    Args:
        dimension: Values of a vector.
        max_input_tokens: Longest text.
        before_forward: Called with each batch before it is answered; may block or raise.
        sizes: Bytes of its weights on each device, as it claims.
        before_move: Called before weights move, with ``park``, ``restore`` or ``close``; may block
            or raise.
        kind: What it claims to be.
        gives: What it makes of a text. Unset: what its kind usually does.

    Attributes:
        batches: Lengths of the texts of each batch so far.
        outputs: What was wanted of each batch so far.
        moves: What was moved so far.
        is_here: Whether its weights are on the device.
    """

    def __init__(
        self,
        dimension: int = 8,
        max_input_tokens: int = 32,
        before_forward: Callable[[Batch], None] | None = None,
        sizes: Mapping[str, int] | None = None,
        before_move: Callable[[str], None] | None = None,
        kind: ModelKind = "embedding",
        gives: Iterable[Output] | None = None,
    ) -> None:
        self.kind: ModelKind = kind
        self.gives: frozenset[Output] = GIVES[kind] if gives is None else frozenset(gives)
        self.lacks: dict[Output, str] = {}
        self.labels = LABELS.get(kind, ())
        self.outputs: list[Output] = []
        self.sizes = {"cpu": 0} if sizes is None else sizes
        self.scratch_bytes = 0
        self.can_park = True
        self.is_here = True
        self.moves: list[str] = []
        self._before_move = before_move
        self._parked_on = ""
        self._running = 0
        self.device_name = "cpu"
        self.is_half_precision = False
        self.runs_alone = False
        self.prompts: dict[str, str] = {"query": "find: ", "passage": "fact: "}
        self.default_prompt_name: str | None = None
        self.pools_prompt = True
        self.tokenizer = FakeTokenizer()
        self.vocabulary_size = VOCABULARY_SIZE
        self.revision: str | None = None
        self.dimension = dimension
        self.max_input_tokens = max_input_tokens
        self.batches: list[list[int]] = []
        self._before_forward = before_forward
        self._lock = threading.Lock()

    @property
    def card(self) -> ModelCard:
        return ModelCard(
            kind=self.kind,
            dimension=len(self.labels) or self.dimension,
            max_input_tokens=self.max_input_tokens,
            pooling={"embedding": "mean", "sparse": "splade"}.get(self.kind),
            revision=self.revision,
            labels=self.labels,
            prompts=self.prompts,
            gives=self.gives,
            lacks=self.lacks,
        )

    def forward_in_float32(self, batch: Batch) -> Any:
        raise AssertionError("it computes in float32 as it is")

    def warm_up(self, batch_tokens: int) -> None:
        """Nothing to warm."""

    @property
    def is_released(self) -> bool:
        """Whether it holds nothing any more."""
        return not self.is_here and not self._parked_on

    @property
    def parked_bytes(self) -> dict[str, int]:
        return {self._parked_on: sum(self.sizes.values())} if self._parked_on else {}

    def kept(self, keep_bytes: int) -> dict[str, int]:
        return dict.fromkeys(self.sizes, 0)

    def park(self, parking: Parking) -> None:
        self._move("park", from_here=True)
        self._parked_on = parking.tier

    def restore(self) -> None:
        self._move("restore", from_here=False)

    def close(self) -> None:
        self._move("close", from_here=None)
        self._parked_on = ""

    def _move(self, what: str, *, from_here: bool | None) -> None:
        assert from_here in (None, self.is_here), f"{what} of weights that are not there"
        assert not self._running, f"{what} of a model in use"
        if self._before_move is not None:
            self._before_move(what)
        self.moves.append(what)
        self.is_here = from_here is False

    def launch(self, batch: Batch) -> Callable[[], Any]:
        rows = self.forward(batch)
        return lambda: rows

    def forward(self, batch: Batch) -> Any:
        with self._lock:
            self.batches.append(batch.lengths.tolist())
            self.outputs.append(batch.output)
            self._running += 1
        try:
            assert self.is_here, "a batch of a model whose weights are not there"
            if self._before_forward is not None:
                self._before_forward(batch)
            return self._rows(batch)
        finally:
            with self._lock:
                self._running -= 1

    def _rows(self, batch: Batch) -> Any:
        assert batch.output in self.gives
        texts = np.split(batch.input_ids, batch.cu_seqlens[1:-1])
        if batch.output == "sparse":
            return [fake_sparse(text) for text in texts]
        if batch.output == "tokens":
            return [fake_tokens(text, self.dimension) for text in texts]
        if batch.output == "dense":
            return np.stack([fake_vector(text, self.dimension) for text in texts])
        types = np.zeros_like(batch.input_ids) if batch.token_types is None else batch.token_types
        halves = [int(text.argmax()) for text in np.split(types, batch.cu_seqlens[1:-1])]
        pairs = zip(texts, halves, strict=True)
        return np.stack([fake_scores(text, len(self.labels), start) for text, start in pairs])


def fake_vector(ids: TokenArray, dimension: int = 8) -> np.ndarray:
    """The fake model's own output for a text, not of unit length."""
    generator = np.random.default_rng(zlib.crc32(ids.tobytes()))
    return generator.normal(size=dimension).astype(np.float32) * 3


def fake_sparse(ids: TokenArray) -> SparseRow:
    """The fake model's words of a text: those that it has, the more often the higher."""
    words, counts = np.unique(ids[ids > END], return_counts=True)
    values = counts + (words % 7) / 8
    return SparseRow(words.astype(np.int32), values.astype(np.float32))


def fake_tokens(ids: TokenArray, dimension: int = 8) -> FloatMatrix:
    """The fake model's vectors of a text's tokens: each a function of the token alone."""
    return np.stack([fake_vector(ids[i : i + 1], dimension) for i in range(len(ids))])


def fake_scores(ids: TokenArray, labels: int, second_start: int = 0) -> np.ndarray:
    """The fake model's logits of a text, or of a pair by where its second half starts."""
    generator = np.random.default_rng(zlib.crc32(ids.tobytes(), second_start))
    return generator.normal(size=labels).astype(np.float32)


class FakePrepared:
    """A model that is ready to be loaded.

    Args:
        backend: Makes a backend, each time that the model is loaded.
        sizes: Bytes that its weights will take of each device.
    """

    def __init__(
        self,
        backend: Callable[[], FakeBackend] = FakeBackend,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self.devices = ["cpu"]
        self.sizes = [{"cpu": 0} if sizes is None else sizes]
        self._backend = backend

    def load(self, number: int) -> FakeBackend:
        return self._backend()


def load_fake(
    _settings: Settings, _model: ModelSettings, _rooms: Mapping[str, Room]
) -> FakePrepared:
    """A loader for ``create_app``."""
    return FakePrepared()


def loading(
    make: Callable[[ModelSettings], FakeBackend], sizes: Mapping[str, int] | None = None
) -> Callable[[Settings, ModelSettings, Mapping[str, Room]], FakePrepared]:
    """A loader of backends that tests make, from the model's settings.

    Args:
        make: Makes a backend, each time that a model is loaded.
        sizes: Bytes that each model's weights will take of each device.
    """

    def load(_settings: Settings, model: ModelSettings, _rooms: Mapping[str, Room]) -> FakePrepared:
        return FakePrepared(lambda: make(model), sizes)

    return load
