# SPDX-License-Identifier: Apache-2.0
"""BGE-M3's sparse head: how much each word of a text itself counts.

A linear layer makes one number of each token's vector, of which what is above zero is kept. A word
that comes several times has its largest number; tokens that stand for no word have none
(https://arxiv.org/abs/2402.03216, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import torch
from torch import nn

from appliance.engine.jobs import Batch
from appliance.engine.staging import to_host
from appliance.engine.types import FloatMatrix, SparseRow
from appliance.engine.weights import SPARSE_HEAD, read_weights
from appliance.errors import ModelUnavailable

__all__ = ["LexicalHead", "load_lexical_head", "sparse_rows"]

PICKLED = f"{SPARSE_HEAD}.pt"
SAFE = f"{SPARSE_HEAD}.safetensors"


class LexicalHead(nn.Module):
    """From token vectors to the values of a text's own words. Computes in float32.

    Args:
        width: Values of a token's vector.
        left_out: Ids of tokens that stand for no word.
    """

    def __init__(self, width: int, left_out: Collection[int]) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        self._left_out = np.array(sorted(left_out), dtype=np.int64)

    def begin(self, hidden: torch.Tensor, batch: Batch) -> Callable[[], list[SparseRow]]:
        """Begin to weigh the words of each text.

        Args:
            hidden: Shape ``[tokens, hidden]``.
            batch: The same texts.

        Returns:
            A function that waits for them.
        """
        wait = to_host(self.linear(hidden.float()).relu())
        return lambda: sparse_rows(wait()[:, 0], batch, self._left_out)


def sparse_rows(
    values: FloatMatrix, batch: Batch, left_out: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> list[SparseRow]:
    """Take the largest value of each word of each text.

    Args:
        values: Shape ``[tokens]``, none below zero; NaN is kept.
        batch: The texts; what of them is not pooled is left out.
        left_out: Ids of tokens that stand for no word.
    """
    ids, lengths = batch.input_ids, batch.lengths
    texts = np.repeat(np.arange(len(batch)), lengths)
    kept = (values != 0) & ~np.isin(ids, left_out)
    if batch.unpooled is not None:
        kept &= np.arange(len(ids)) >= np.repeat(batch.cu_seqlens[:-1] + batch.unpooled, lengths)
    order = np.lexsort((ids[kept], texts[kept]))
    texts, words, values = texts[kept][order], ids[kept][order], values[kept][order]
    is_first = (np.diff(texts, prepend=-1) != 0) | (np.diff(words, prepend=-1) != 0)
    firsts = np.flatnonzero(is_first)
    largest = np.maximum.reduceat(values, firsts) if len(firsts) else values
    ends = np.searchsorted(texts[firsts], np.arange(1, len(batch)))
    rows = zip(np.split(words[firsts].astype(np.int32), ends), np.split(largest, ends), strict=True)
    return [SparseRow(indices.copy(), found.copy()) for indices, found in rows]


def load_lexical_head(
    folder: Path, width: int, left_out: Collection[int], *, pickles: bool
) -> tuple[LexicalHead | None, str]:
    """Read a sparse head, if there is one.

    Args:
        folder: The transformer's folder.
        width: Values of a token's vector.
        left_out: Ids of tokens that stand for no word.
        pickles: Whether weights in PyTorch's older format may be read.

    Returns:
        The head; or ``None``, and why there is none although there could be.

    Raises:
        ModelUnavailable: It is broken, or does not fit.
    """
    if not (folder / SAFE).is_file():
        if not (folder / PICKLED).is_file():
            return None, ""
        if not pickles:
            return None, (
                f"its sparse head is in {PICKLED}, a format that can run code when it is read; the"
                " server's setting pickle_weights allows it for authors that are trusted."
            )
    head = LexicalHead(width, left_out)
    try:
        head.linear.load_state_dict(
            read_weights(folder, pickles=pickles, safe=SAFE, pickled=PICKLED)
        )
    except RuntimeError as error:
        raise ModelUnavailable(f"{SPARSE_HEAD}: its weights do not fit: {error}") from error
    return head, ""
