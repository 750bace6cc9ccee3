# SPDX-License-Identifier: Apache-2.0
"""How close a quantised model's vectors come to those of the same model in float32."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import psutil

from appliance.engine.jobs import Batch
from appliance.engine.model import TorchBackend
from appliance.engine.types import FloatMatrix
from appliance.settings import ModelSettings

__all__ = ["tell_fidelity"]

logger = logging.getLogger(__name__)

MOST_OF_FREE_MEMORY = 0.5
"""Share of the host's free memory that the exact copy may take for the comparison."""

_TEXTS = (
    "How do I return a parcel that arrived damaged?",
    "The committee adjourned without reaching a decision on the new budget.",
    "def area(radius): return 3.14159 * radius ** 2",
    "Die Brücke über den Fluss bleibt bis Montag gesperrt.",
    "Patients with mild symptoms recovered within ten days of treatment.",
    "best pasta recipes with tomatoes and basil",
    "Winds from the north-west will reach 60 km/h on the coast tonight, with heavy rain inland.",
    "He closed the door, sat down at the piano and played the same four bars again and again.",
)


def tell_fidelity(
    model: ModelSettings,
    backend: TorchBackend,
    parameters: int,
    load_exact: Callable[[], TorchBackend],
) -> None:
    """Measure and log it, unless the host has no room for the model in float32.

    Args:
        model: The model's settings.
        backend: The quantised model; is told the result.
        parameters: Numbers in its weights.
        load_exact: Loads the same model in float32 on the CPU.
    """
    needed, free = 4 * parameters, psutil.virtual_memory().available
    if needed > MOST_OF_FREE_MEMORY * free:
        logger.info(
            "model %s: how close %s comes to float32 was not measured: that takes %.1f GiB of RAM",
            model.name,
            model.quantization,
            needed / 2**30,
        )
        return
    cosines = _cosines(_embed(backend), _embed(load_exact()))
    backend.fidelity = float(cosines.min())
    logger.info(
        "model %s: %s weights; cosine to float32 %.4f on average, %.4f at least, over %d texts",
        model.name,
        model.quantization,
        cosines.mean(),
        backend.fidelity,
        len(cosines),
    )


def _embed(backend: TorchBackend) -> FloatMatrix:
    longest = backend.max_input_tokens
    return backend.forward(
        Batch.pack([ids[:longest] for ids in backend.tokenizer.encode(list(_TEXTS))])
    )


def _cosines(found: FloatMatrix, exact: FloatMatrix) -> FloatMatrix:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1)
    cosines: FloatMatrix = (found * exact).sum(axis=1) / lengths
    return cosines
