# SPDX-License-Identifier: Apache-2.0
"""The worker's task on onnxruntime, written as its users write it: tokenizers, padding, NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from bench_lib.worker_encode import RUN_AT_A_TIME, encoded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["OnnxRuntime"]

MAX_TOKENS = 256
"""What the model reads, by its `sentence_bert_config.json`; its `tokenizer.json` says 128."""


class OnnxRuntime:
    """One ONNX file on the CPU, with onnxruntime's own defaults."""

    packages: tuple[str, ...] = ("onnxruntime",)

    def __init__(self, folder: str, onnx_file: str) -> None:
        self.tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.enable_padding()
        self.session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        return encoded(self, request)

    def encode(self, texts: Sequence[str], *, sort: bool) -> NDArray[np.float32]:
        """By characters, as sentence-transformers sorts; the longest first."""
        order = list(range(len(texts)))
        if sort:
            order.sort(key=lambda text: -len(texts[text]))
        vectors = np.concatenate(
            [
                self._batch([texts[text] for text in order[first : first + RUN_AT_A_TIME]])
                for first in range(0, len(texts), RUN_AT_A_TIME)
            ]
        )
        unsorted = np.empty_like(vectors)
        unsorted[order] = vectors
        return unsorted

    def _batch(self, texts: list[str]) -> NDArray[np.float32]:
        encodings = self.tokenizer.encode_batch(texts)
        ids = np.array([one.ids for one in encodings], dtype=np.int64)
        mask = np.array([one.attention_mask for one in encodings], dtype=np.int64)
        (hidden,) = self.session.run(
            None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        )
        weights = mask[:, :, None].astype(np.float32)
        pooled = (hidden * weights).sum(1) / weights.sum(1)
        vectors: NDArray[np.float32] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return vectors
