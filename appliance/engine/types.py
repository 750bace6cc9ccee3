# SPDX-License-Identifier: Apache-2.0
"""The values that travel through the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from appliance.settings import TokenIds

__all__ = [
    "PRIORITIES",
    "Batch",
    "EmbedOptions",
    "Embedding",
    "FloatMatrix",
    "InputType",
    "Job",
    "OutputDtype",
    "Priority",
    "Timings",
    "TokenArray",
    "TruncationDirection",
    "Vectors",
]

TokenArray = npt.NDArray[np.int64]
FloatMatrix = npt.NDArray[np.float32]
Vectors = FloatMatrix | npt.NDArray[np.int8] | npt.NDArray[np.uint8]
OutputDtype = Literal["float", "int8", "uint8", "binary", "ubinary"]
TruncationDirection = Literal["left", "right"]
InputType = Literal["query", "document"]
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

    truncate: bool | None = None
    """Cut texts that are too long, rather than refuse them."""

    truncation_direction: TruncationDirection = "right"
    """End of the text that a cut takes away."""

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


@dataclass(frozen=True, slots=True)
class Embedding:
    """The answer to one request.

    Attributes:
        vectors: Shape ``[inputs, dimensions]``, C-contiguous, in the order asked; float32, int8 or
            uint8 by ``output_dtype``. Of ``binary`` and ``ubinary`` a row has eight dimensions a
            byte.
        tokens: Tokens that the model saw, special tokens included.
        timings: Where the time went.
    """

    vectors: Vectors
    tokens: int
    timings: Timings


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of one forward pass, laid end to end.

    Attributes:
        input_ids: int64, shape ``[tokens]``: all texts' ids one after the other.
        cu_seqlens: int32, shape ``[texts + 1]``: where each text starts; the last is ``tokens``.
        unpooled: int32, shape ``[texts]``: first tokens of each text that are read but not pooled.
    """

    input_ids: TokenArray
    cu_seqlens: npt.NDArray[np.int32]
    unpooled: npt.NDArray[np.int32] | None = None

    @classmethod
    def pack(cls, texts: Sequence[TokenArray], unpooled: Sequence[int] = ()) -> Batch:
        """Lay texts end to end in the order given."""
        lengths = np.fromiter((len(text) for text in texts), dtype=np.int32, count=len(texts))
        cu_seqlens = np.zeros(len(texts) + 1, dtype=np.int32)
        np.cumsum(lengths, out=cu_seqlens[1:])
        # A text that is all prompt is pooled whole: no vector comes of no tokens.
        kept = (
            np.where(np.array(unpooled) < lengths, unpooled, 0).astype(np.int32)
            if any(unpooled)
            else None
        )
        return cls(np.concatenate(texts), cu_seqlens, kept)

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """int32, shape ``[texts]``: tokens of each text."""
        return np.diff(self.cu_seqlens)

    def __len__(self) -> int:
        return len(self.cu_seqlens) - 1


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way through a device.

    ``remaining`` counts texts that have no vector yet; the one who takes it to zero calls
    ``done``. All fields after ``done`` belong to the device's lock or to the worker that holds
    the batch.
    """

    texts: Sequence[TokenArray]
    done: Callable[[Job], None]
    """Called once, from a worker thread, when every text has a vector or the job has failed."""

    unpooled: int = 0
    """First tokens of each text that are read but not pooled."""
    priority: Priority = "normal"
    trace: object | None = None
    """What ties it to its request for whoever watches the engine; opaque here."""
    tokens: int = 0
    remaining: int = 0
    vectors: FloatMatrix | None = None
    error: BaseException | None = None
    cancelled: bool = False
    submitted: float = field(default_factory=time.perf_counter)
    started: float | None = None
    finished: float | None = None

    def __post_init__(self) -> None:
        self.tokens = sum(len(text) for text in self.texts)
        self.remaining = len(self.texts)
