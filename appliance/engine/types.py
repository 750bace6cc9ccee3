# SPDX-License-Identifier: Apache-2.0
"""The values that travel through the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from appliance.settings import TokenIds

__all__ = [
    "PRIORITIES",
    "Answer",
    "EmbedOptions",
    "Embedding",
    "FloatMatrix",
    "InputType",
    "ModelCard",
    "ModelKind",
    "Output",
    "OutputDtype",
    "PairTokens",
    "Priority",
    "Rows",
    "Scores",
    "SparseEmbedding",
    "SparseRow",
    "Timings",
    "Token",
    "TokenArray",
    "TokenEmbedding",
    "TruncationDirection",
    "Vectors",
]

TokenArray = npt.NDArray[np.int64]
FloatMatrix = npt.NDArray[np.float32]
Vectors = FloatMatrix | npt.NDArray[np.int8] | npt.NDArray[np.uint8]
ModelKind = Literal["embedding", "sparse", "classifier", "reranker"]
"""``sparse``: SPLADE; ``reranker``: a classifier of one label."""
Output = Literal["dense", "sparse", "tokens", "scores"]
"""What is made of a text: a vector, values of some words, a vector for each token, or a score for
each label."""
OutputDtype = Literal["float", "int8", "uint8", "binary", "ubinary"]
TruncationDirection = Literal["left", "right"]
InputType = Literal["query", "document", "classification", "clustering"]
Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
"""Highest first."""


@dataclass(frozen=True, slots=True)
class EmbedOptions:
    """What one request asks for beside its texts. ``None``: as the model is set."""

    dimensions: int | None = None
    """Leading values of each vector to keep; the rest is rescaled to unit length."""

    normalize: bool | None = None
    """Scale each vector to unit length."""

    output_dtype: OutputDtype = "float"
    """What the values of a vector become, after cut and scaling; see
    :mod:`appliance.engine.vectors`."""

    also: tuple[OutputDtype, ...] = ()
    """What else will be made of the same vectors, by whoever asks for them."""

    truncate: bool | None = None
    """Cut texts that are too long, rather than refuse them."""

    truncation_direction: TruncationDirection = "right"
    """End of the text that a cut takes away."""

    max_tokens: int | None = None
    """Most tokens of a text that are read, where the model would read more."""

    on_truncate: Callable[[int], None] | None = None
    """Called for each text that is cut, with its position; on a tokenizer's thread."""

    token_encoding: TokenIds | None = None
    """Vocabulary that lists of token ids belong to."""

    prompt: str | None = None
    """Words to put before each text."""

    prompt_name: str | None = None
    """Name of one of the model's prompts, to put before each text."""

    input_type: InputType | None = None
    """Kind of text; the model's prompt for it, if it has one, goes before each."""

    keep_alive: float | None = None
    """Seconds that the model stays loaded after the last request; 0: not at all, -1: for ever."""

    priority: Priority = "normal"
    """Whether its texts go before or after those of other requests for the same model."""

    @property
    def needs_ranges(self) -> bool:
        """Whether something is made by the ranges of the model's values."""
        return not {"int8", "uint8"}.isdisjoint((self.output_dtype, *self.also))


@dataclass(slots=True)
class Timings:
    """Where the time of one request went, in seconds."""

    tokenize: float = 0.0
    queue: float = 0.0
    """From the queue's door to the start of the first forward pass."""
    forward: float = 0.0
    """From the start of the first forward pass to the end of the last."""
    encode: float = 0.0
    """Writing the answer; waiting for a thread to do it counts too."""

    # When three of these began, by ``time.perf_counter``; forward begins where queue ends.
    began_to_tokenize: float = 0.0
    began_to_queue: float = 0.0
    began_to_encode: float = 0.0

    @classmethod
    def of_parts(cls, parts: Sequence[Timings]) -> Timings:
        """The times of one request that was worked on in parts, added up."""
        return cls(
            tokenize=sum(part.tokenize for part in parts),
            queue=sum(part.queue for part in parts),
            forward=sum(part.forward for part in parts),
            began_to_tokenize=min(part.began_to_tokenize for part in parts),
            began_to_queue=min(part.began_to_queue for part in parts),
        )


@dataclass(frozen=True, slots=True)
class Embedding:
    """The answer to one request.

    Attributes:
        vectors: Shape ``[inputs, dimensions]``, C-contiguous, in the order asked; float32, int8 or
            uint8 by ``output_dtype``. Of ``binary`` and ``ubinary`` a row has eight dimensions a
            byte.
        tokens: Tokens that the model saw, special tokens included.
        timings: Where the time went.
        ranges: float32, shape ``[2, dimensions]``: least and greatest value of each dimension,
            where the request needs them.
    """

    vectors: Vectors
    tokens: int
    timings: Timings
    ranges: FloatMatrix | None = None

    @property
    def numbers(self) -> int:
        """Numbers to write, as of each kind of answer."""
        return self.vectors.size


@dataclass(frozen=True, slots=True, eq=False)
class SparseRow:
    """The words of the vocabulary that count for one text.

    Attributes:
        indices: int32, shape ``[words]``, ascending: their ids.
        values: float32, shape ``[words]``, all above zero.
    """

    indices: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SparseEmbedding:
    """As :class:`Embedding`, with the values of some words for each input."""

    rows: Sequence[SparseRow]
    tokens: int
    timings: Timings

    @property
    def numbers(self) -> int:
        """Indices and values."""
        return 2 * sum(len(row.indices) for row in self.rows)


@dataclass(frozen=True, slots=True)
class TokenEmbedding:
    """As :class:`Embedding`, with a matrix for each input.

    Attributes:
        rows: Each of shape ``[tokens, dimension]``, those of special tokens included.
    """

    rows: Sequence[FloatMatrix]
    tokens: int
    timings: Timings

    @property
    def numbers(self) -> int:
        """Values of all vectors."""
        return sum(row.size for row in self.rows)


@dataclass(frozen=True, slots=True)
class Scores:
    """As :class:`Embedding`, with a score of each input for each label.

    Attributes:
        rows: Shape ``[inputs, labels]``.
        labels: Their names, by id.
    """

    rows: FloatMatrix
    labels: tuple[str, ...]
    tokens: int
    timings: Timings

    @property
    def numbers(self) -> int:
        """Scores of all inputs."""
        return self.rows.size


Answer = Embedding | SparseEmbedding | TokenEmbedding | Scores
Rows = FloatMatrix | Sequence[SparseRow] | Sequence[FloatMatrix]
"""What a model gives for some texts, by :data:`Output`: a matrix for ``dense`` and ``scores``."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a text.

    Attributes:
        id: Its id.
        text: The piece of the text that it stands for; of a special token, its own name.
        special: Whether it was added to the text.
        start: The piece's first character; ``None`` of a special token.
        stop: The character behind the piece.
    """

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


@dataclass(frozen=True, slots=True)
class PairTokens:
    """A pair of texts as a model reads it.

    Attributes:
        ids: int64, special tokens included; cut where there were too many.
        second_start: First token of the second kind (``token_type_ids``); 0 where all are of one.
        is_cut: Whether there were too many.
        count: Tokens before the cut; ``None`` where they were not all read.
    """

    ids: TokenArray
    second_start: int
    is_cut: bool
    count: int | None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model is, as far as its files and settings say.

    Attributes:
        kind: What it is for.
        dimension: Values of a vector, where it gives any.
        max_input_tokens: Longest text that it reads.
        pooling: ``cls``, ``mean``, ``last_token``, ``splade`` ...; of several, joined by ``+``.
        dtype: The number format that it computes in.
        revision: The hub's commit that its files are of, if they came from there.
        labels: Names of a classifier's labels, by id.
        prompts: Words to put before a text, by name.
        gives: What it makes of a text.
        lacks: Why it does not make something that it otherwise would, in a sentence for a client.
        architecture: Of the transformer, by its name in transformers: ``bert``.
    """

    kind: ModelKind
    dimension: int
    max_input_tokens: int
    pooling: str | None = None
    dtype: str = "float32"
    revision: str | None = None
    labels: tuple[str, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    gives: frozenset[Output] = frozenset({"dense"})
    lacks: Mapping[Output, str] = field(default_factory=dict)
    architecture: str = ""
