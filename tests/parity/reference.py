# SPDX-License-Identifier: Apache-2.0
"""The same texts through this engine and through sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from sentence_transformers import SentenceTransformer, SparseEncoder

from appliance.engine.jobs import Batch
from appliance.engine.loading import load_model
from appliance.engine.model import TorchBackend
from appliance.engine.types import FloatMatrix
from appliance.settings import ModelSettings, Settings
from tests.parity.vocabularies import CORPUS

TEXTS = (
    *CORPUS,
    "a",
    "The fox",
    "dog " * 30,
    "x, y; z!",
    "Ω unknown ünïcode 中文",
    " ".join(CORPUS[:2]),
    "  queue of short   requests ",
)
BATCH_TOKENS = 256
REAL = "embedded:all-MiniLM-L6-v2"


def load(
    model: Path | str,
    dtype: Literal["float32", "bfloat16"] = "float32",
    **settings: object,
) -> TorchBackend:
    """The engine's model, not yet warm."""
    fields = {"model": str(model), "name": "tiny", "dtype": dtype, "device_map": "cpu", **settings}
    return load_model(Settings(), ModelSettings.model_validate(fields))[0]


def warmed(
    model: Path | str,
    dtype: Literal["float32", "bfloat16"] = "float32",
    **settings: object,
) -> TorchBackend:
    """The engine's model, run the fastest way."""
    backend = load(model, dtype, **settings)
    backend.warm_up(BATCH_TOKENS)
    return backend


def prove(backend: TorchBackend, **ways: bool) -> None:
    """Settle on the fastest of some ways."""
    with torch.inference_mode():
        backend.transformer.prove(BATCH_TOKENS, **ways)


def ours(backend: TorchBackend, texts: Sequence[str] = TEXTS, prompt: str = "") -> FloatMatrix:
    """All texts in one batch, cut where they are too long."""
    limit = backend.max_input_tokens
    encoded = backend.tokenizer.encode([f"{prompt}{text}" for text in texts])
    for position, ids in enumerate(encoded):
        if len(ids) > limit:
            encoded[position] = backend.tokenizer.cut(ids, limit, "right")
    left_out = 0 if backend.pools_prompt else backend.tokenizer.prompt_length(prompt)
    return backend.forward(Batch.pack(encoded, [left_out] * len(texts)))


def theirs(model: Path, texts: Sequence[str] = TEXTS, prompt: str = "") -> FloatMatrix:
    """What sentence-transformers makes of them, all in one batch."""
    return _theirs(model, tuple(texts), prompt)


@cache
def _theirs(model: Path, texts: tuple[str, ...], prompt: str) -> FloatMatrix:
    reference = SentenceTransformer(str(model), device="cpu", local_files_only=True)
    vectors: FloatMatrix = reference.encode(
        list(texts), prompt=prompt, batch_size=len(texts), show_progress_bar=False
    )
    return vectors


@cache
def theirs_splade(model: Path) -> FloatMatrix:
    """What sentence-transformers' sparse encoder makes of them, as dense rows."""
    reference = SparseEncoder(str(model), device="cpu", local_files_only=True)
    vectors = reference.encode(list(TEXTS), batch_size=len(TEXTS), convert_to_sparse_tensor=False)
    assert isinstance(vectors, torch.Tensor)
    rows: FloatMatrix = vectors.numpy()
    return rows


def assert_same(found: FloatMatrix, expected: FloatMatrix) -> None:
    """As near as float32 comes."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def cosines(found: FloatMatrix, expected: FloatMatrix) -> FloatMatrix:
    """Cosine of each pair."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    result: FloatMatrix = (found * expected).sum(axis=1) / lengths
    return result
