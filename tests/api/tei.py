# SPDX-License-Identifier: Apache-2.0
"""Models of every kind whose answers can be told beforehand."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np

from appliance.engine.jobs import Batch
from appliance.engine.types import ModelKind, SparseRow
from appliance.settings import ModelSettings
from tests.conftest import RunningServer
from tests.fakes import END, START, FakeBackend, word_id

VECTORS = {"east": (2.0, 0.0), "north": (0.0, 2.0), "west": (-3.0, 0.0), "long": (0.5, 0.25)}
SPECIAL_VECTORS = {START: (1.0, -1.0), END: (0.0, 0.125)}
WORDS = {"east": {5: 0.5, 9: 2.25}, "north": {9: 1.0}}
RELEVANCE = {"good": 2.0, "fair": 0.0, "bad": -1.5}

MODELS = (
    ModelSettings(model="team/dense", aliases=("dense",)),
    ModelSettings(model="sparse"),
    ModelSettings(model="classifier"),
    ModelSettings(model="reranker"),
    ModelSettings(model="strict", truncate=False, max_client_batch_size=2, payload_limit=300),
)
KINDS: dict[str, ModelKind] = {
    "sparse": "sparse",
    "classifier": "classifier",
    "reranker": "reranker",
}


class TellingBackend(FakeBackend):
    """Gives what the words of a text stand for in the tables above, added up.

    Args:
        model: Its settings; its name says what kind it is.
        more: As for the backend that it is made of.
    """

    def __init__(self, model: ModelSettings, **more: Any) -> None:
        super().__init__(dimension=2, kind=KINDS.get(model.name, "embedding"), **more)

    def _rows(self, batch: Batch) -> Any:
        texts = [ids.tolist() for ids in np.split(batch.input_ids, batch.cu_seqlens[1:-1])]
        if batch.output == "dense":
            return np.array([self._vector(ids[1:-1]) for ids in texts], np.float32)
        if batch.output == "tokens":
            return [np.array([self._vector([i]) for i in ids], np.float32) for ids in texts]
        if batch.output == "sparse":
            return [_sparse(ids) for ids in texts]
        return np.array([self._logits(ids) for ids in texts], np.float32)

    def _vector(self, ids: list[int]) -> Any:
        known = {**SPECIAL_VECTORS, **{word_id(word): v for word, v in VECTORS.items()}}
        return np.sum([known.get(i, (0.0, 0.0)) for i in ids], axis=0)

    def _logits(self, ids: list[int]) -> list[float]:
        relevance = sum(value for word, value in RELEVANCE.items() if word_id(word) in ids)
        return [relevance] if self.kind == "reranker" else [-relevance, 0.5, relevance]


def _sparse(ids: list[int]) -> SparseRow:
    values: dict[int, float] = {}
    for word, words in WORDS.items():
        if word_id(word) in ids:
            values |= words
    indices = sorted(values)
    return SparseRow(
        np.array(indices, np.int32), np.array([values[i] for i in indices], np.float32)
    )


def post(server: RunningServer, path: str, **body: Any) -> httpx.Response:
    """Post a body of JSON."""
    return httpx.post(server.url + path, json=body, timeout=60)
