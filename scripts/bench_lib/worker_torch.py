# SPDX-License-Identifier: Apache-2.0
"""The worker's tasks on torch: the GEMM floor, the bare forward pass, sentence-transformers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from bench_lib.worker_encode import RUN_AT_A_TIME, encoded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Bare", "SentenceTransformers"]

POOLER = "pooler"
"""Part of BERT's name for a layer that sentence embedding models do not use."""

BATCH_TOKENS = 1024
"""Rows that prepacked weights are arranged for."""

DTYPES = ("float32", "bfloat16")

Inputs = dict[int, torch.Tensor]
"""Rows to multiply, by their width."""

Multiply = Callable[[Inputs, int], None]


class Plain:
    """The model and its linear layers in one number format.

    The layers themselves are multiplied, and not one layer six times: the weights then come from
    memory as they do in the model, and not from a cache that they happen to fit in.
    """

    def __init__(self, folder: str, dtype: torch.dtype) -> None:
        from transformers import AutoModel

        self.dtype = dtype
        self.model = AutoModel.from_pretrained(
            folder, attn_implementation="sdpa", dtype=dtype
        ).eval()
        self.linears = [
            layer
            for name, layer in self.model.named_modules()
            if isinstance(layer, nn.Linear) and POOLER not in name
        ]
        self.packed_weights = self._prepack()

    def _prepack(self) -> list[torch.Tensor]:
        """What torch.compile would use: weights arranged for the CPU once, not at every call."""
        reorder = torch.ops.mkldnn._reorder_linear_weight
        try:
            return [reorder(layer.weight.detach(), BATCH_TOKENS) for layer in self.linears]
        except RuntimeError:  # a CPU without instructions for this format
            return []

    def floor(self, batches: Sequence[int], *, prepacked: bool) -> float | None:
        """Seconds that the linear layers take; None where their weights cannot be prepacked."""
        if prepacked and not self.packed_weights:
            return None
        multiply = self._packed if prepacked else self._plain
        widths = {layer.in_features for layer in self.linears}
        inputs = {width: torch.randn(max(batches), width).to(self.dtype) for width in widths}
        multiply(inputs, batches[0])
        start = time.perf_counter()
        for tokens in batches:
            multiply(inputs, tokens)
        return time.perf_counter() - start

    def _plain(self, inputs: Inputs, tokens: int) -> None:
        for layer in self.linears:
            nn.functional.linear(inputs[layer.in_features][:tokens], layer.weight, layer.bias)

    def _packed(self, inputs: Inputs, tokens: int) -> None:
        linear = torch.ops.mkldnn._linear_pointwise
        for layer, weight in zip(self.linears, self.packed_weights, strict=True):
            linear(inputs[layer.in_features][:tokens], weight, layer.bias, "none", [], "")


class Bare:
    """The model's linear layers alone, and its bare forward pass of one text."""

    packages: tuple[str, ...] = ("torch", "transformers")

    def __init__(self, folder: str) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.plain = {name: Plain(folder, getattr(torch, name)) for name in DTYPES}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        plain = self.plain[request["dtype"]]
        with torch.inference_mode():
            if request["task"] == "floor":
                return {"seconds": plain.floor(request["batches"], prepacked=request["prepacked"])}
            return {"milliseconds": self.forward(plain, request["text"], request["times"])}

    def forward(self, plain: Plain, text: str, times: int) -> list[float]:
        tokens = self.tokenizer(text, return_tensors="pt", padding=False)
        for _ in range(min(times, 20)):
            plain.model(**tokens)
        milliseconds = []
        for _ in range(times):
            start = time.perf_counter()
            plain.model(**tokens)
            milliseconds.append((time.perf_counter() - start) * 1000)
        return milliseconds


class SentenceTransformers:
    """`SentenceTransformer.encode`, with the texts sorted (as it does itself) or as they arrive."""

    packages: tuple[str, ...] = ("sentence-transformers",)

    def __init__(self, folder: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(folder, device="cpu")

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        return encoded(self, request)

    def encode(self, texts: Sequence[str], *, sort: bool) -> NDArray[np.float32]:
        size = len(texts) if sort else RUN_AT_A_TIME
        return np.concatenate(
            [
                self.model.encode(
                    list(texts[first : first + size]),
                    batch_size=RUN_AT_A_TIME,
                    show_progress_bar=False,
                )
                for first in range(0, len(texts), size)
            ]
        )
