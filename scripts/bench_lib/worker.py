# SPDX-License-Identifier: Apache-2.0
"""Work done in process: the GEMM floor, the bare forward pass, sentence-transformers.

Run by path in the venv of the library it measures, so it imports nothing of this package. Reads one
JSON request a line from stdin and answers one JSON line; blocked on stdin it costs no CPU.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__: list[str] = []

POOLER = "pooler"
"""Part of BERT's name for a layer that sentence embedding models do not use."""

RUN_AT_A_TIME = 32

BATCH_TOKENS = 1024
"""Rows that prepacked weights are arranged for."""

Inputs = dict[int, torch.Tensor]
"""Rows to multiply, by their width."""

Multiply = Callable[[Inputs, int], None]


class Task(Protocol):
    """Answers requests of one kind of worker."""

    packages: tuple[str, ...]

    def answer(self, request: dict[str, Any]) -> dict[str, Any]: ...


class Bare:
    """The model's linear layers alone, and its bare forward pass of one text."""

    packages: tuple[str, ...] = ("torch", "transformers")

    def __init__(self, folder: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(
            folder, attn_implementation="sdpa", dtype=torch.float32
        ).eval()
        # The layers themselves and not one layer six times: the weights then come from memory as
        # they do in the model, and not from a cache that they happen to fit in.
        self.linears = [
            layer
            for name, layer in self.model.named_modules()
            if isinstance(layer, torch.nn.Linear) and POOLER not in name
        ]
        # What torch.compile would use: weights arranged for the CPU once and not at every call.
        self.packed_weights = [
            torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), BATCH_TOKENS)
            for layer in self.linears
        ]

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        with torch.inference_mode():
            if request["task"] == "floor":
                multiply = self._packed if request["prepacked"] else self._plain
                return {"seconds": self._floor(multiply, request["batches"])}
            return {"milliseconds": self.forward(request["text"], request["times"])}

    def _floor(self, multiply: Multiply, batches: Sequence[int]) -> float:
        widths = {layer.in_features for layer in self.linears}
        inputs = {width: torch.randn(max(batches), width) for width in widths}
        multiply(inputs, batches[0])
        start = time.perf_counter()
        for tokens in batches:
            multiply(inputs, tokens)
        return time.perf_counter() - start

    def _plain(self, inputs: Inputs, tokens: int) -> None:
        for layer in self.linears:
            functional.linear(inputs[layer.in_features][:tokens], layer.weight, layer.bias)

    def _packed(self, inputs: Inputs, tokens: int) -> None:
        linear = torch.ops.mkldnn._linear_pointwise
        for layer, weight in zip(self.linears, self.packed_weights, strict=True):
            linear(inputs[layer.in_features][:tokens], weight, layer.bias, "none", [], "")

    def forward(self, text: str, times: int) -> list[float]:
        encoded = self.tokenizer(text, return_tensors="pt", padding=False)
        for _ in range(min(times, 20)):
            self.model(**encoded)
        milliseconds = []
        for _ in range(times):
            start = time.perf_counter()
            self.model(**encoded)
            milliseconds.append((time.perf_counter() - start) * 1000)
        return milliseconds


class SentenceTransformers:
    """`SentenceTransformer.encode`, with the texts sorted (as it does itself) or as they arrive."""

    packages: tuple[str, ...] = ("sentence-transformers", "transformers", "torch")

    def __init__(self, folder: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(folder, device="cpu")

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        texts: list[str] = request["texts"]
        size = len(texts) if request["task"] == "sorted" else RUN_AT_A_TIME
        start = time.perf_counter()
        rows = [
            self.model.encode(
                texts[first : first + size], batch_size=RUN_AT_A_TIME, show_progress_bar=False
            )
            for first in range(0, len(texts), size)
        ]
        seconds = time.perf_counter() - start
        vectors = b"".join(row.astype("<f4").tobytes() for row in rows)
        return {"seconds": seconds, "vectors": base64.b64encode(vectors).decode()}


def main(kind: str, folder: str) -> None:
    # Libraries print where they like: keep the answers' pipe to ourselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    task: Task = Bare(folder) if kind == "bare" else SentenceTransformers(folder)
    threads = {"torch threads": str(torch.get_num_threads())}
    hello = {name: version(name) for name in task.packages} | threads
    print(json.dumps(hello), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(task.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
