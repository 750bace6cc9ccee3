# SPDX-License-Identifier: Apache-2.0
"""What a device works on: the texts of one request, and those of one batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.engine.types import Output, Priority, TokenArray

__all__ = ["Batch", "Job"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of one forward pass, laid end to end.

    Attributes:
        input_ids: int64, shape ``[tokens]``: all texts' ids one after the other.
        cu_seqlens: int32, shape ``[texts + 1]``: where each text starts; the last is ``tokens``.
        unpooled: int32, shape ``[texts]``: first tokens of each text that are read but not pooled.
        output: What is to be made of them.
        token_types: int64, shape ``[tokens]``: 1 in the second half of a pair, else 0; ``None``
            where no text is a pair.
    """

    input_ids: TokenArray
    cu_seqlens: npt.NDArray[np.int32]
    unpooled: npt.NDArray[np.int32] | None = None
    output: Output = "dense"
    token_types: TokenArray | None = None

    @classmethod
    def pack(
        cls,
        texts: Sequence[TokenArray],
        unpooled: Sequence[int] = (),
        output: Output = "dense",
        second_starts: Sequence[int] = (),
    ) -> Batch:
        """Lay texts end to end in the order given.

        Args:
            texts: Ids of each.
            unpooled: First tokens of each that are read but not pooled; empty: none of any.
            output: What is to be made of them.
            second_starts: Where the second half of each pair starts; 0: it is no pair. Empty:
                none is.
        """
        lengths = np.fromiter((len(text) for text in texts), dtype=np.int32, count=len(texts))
        cu_seqlens = np.zeros(len(texts) + 1, dtype=np.int32)
        np.cumsum(lengths, out=cu_seqlens[1:])
        # A text that is all prompt is pooled whole: no vector comes of no tokens.
        kept = (
            np.where(np.array(unpooled) < lengths, unpooled, 0).astype(np.int32)
            if any(unpooled)
            else None
        )
        types = None
        if any(second_starts):
            starts = np.where(np.array(second_starts) > 0, second_starts, lengths)
            places = np.arange(cu_seqlens[-1])
            types = (places >= np.repeat(cu_seqlens[:-1] + starts, lengths)).astype(np.int64)
        return cls(np.concatenate(texts), cu_seqlens, kept, output, types)

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """int32, shape ``[texts]``: tokens of each text."""
        return np.diff(self.cu_seqlens)

    def __len__(self) -> int:
        return len(self.cu_seqlens) - 1


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way through a device.

    ``remaining`` counts texts that have no row yet; the one who takes it to zero calls
    ``done``. All fields after ``done`` belong to the device's lock or to the worker that holds
    the batch.
    """

    texts: Sequence[TokenArray]
    done: Callable[[Job], None]
    """Called once, from a worker thread, when every text has its row or the job has failed."""

    unpooled: int = 0
    """First tokens of each text that are read but not pooled."""
    priority: Priority = "normal"
    trace: object | None = None
    """What ties it to its request for whoever watches the engine; opaque here."""
    output: Output = "dense"
    """What is to be made of each text."""
    second_starts: Sequence[int] = ()
    """As in :meth:`Batch.pack`."""
    tokens: int = 0
    remaining: int = 0
    rows: Any = None
    """:data:`Rows`, in the order of the texts; some are missing until ``remaining`` is 0."""
    error: BaseException | None = None
    cancelled: bool = False
    submitted: float = field(default_factory=time.perf_counter)
    started: float | None = None
    finished: float | None = None

    def __post_init__(self) -> None:
        self.tokens = sum(len(text) for text in self.texts)
        self.remaining = len(self.texts)
