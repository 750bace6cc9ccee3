# SPDX-License-Identifier: Apache-2.0
"""From pairs of texts to the tokens of them, and from logits to scores."""

from __future__ import annotations

from typing import cast

import numpy as np

from appliance.engine.backend import Backend
from appliance.engine.inputs import Inputs, token_limit, too_long
from appliance.engine.types import EmbedOptions, FloatMatrix, PairTokens
from appliance.errors import EmptyInput
from appliance.settings import ModelSettings

__all__ = ["are_pairs", "probabilities", "tokenize_pairs"]


def are_pairs(inputs: Inputs) -> bool:
    """Whether inputs, of which there is at least one, are pairs of texts."""
    return isinstance(inputs.items[0], tuple)


def tokenize_pairs(
    inputs: Inputs, backend: Backend, model: ModelSettings, options: EmbedOptions
) -> list[PairTokens]:
    """Turn pairs into ids of the model, each no longer than the model reads. Blocks.

    A pair that is too long is cut in its longer half first. No prompt goes before it.

    Args:
        inputs: Pairs.
        backend: The model.
        model: Its settings.
        options: What the request says.

    Raises:
        InvalidRequest: A pair is too long and may not be cut, or has nothing that can be read.
    """
    may_cut = model.truncate if options.truncate is None else options.truncate
    limit = token_limit(backend, options)
    direction = options.truncation_direction if may_cut else "right"
    pairs = cast("list[tuple[str, str]]", inputs.items)
    found = backend.tokenizer.encode_pairs(pairs, limit, direction)
    for position, pair in enumerate(found):
        path = inputs.path(position)
        if pair.is_cut and not may_cut:
            raise too_long(path, pair.count, limit)
        if not len(pair.ids):
            raise EmptyInput(f"{path} has no token that the model knows.", param=path)
        if pair.is_cut and options.on_truncate is not None:
            options.on_truncate(inputs.first + position)
    return found


def probabilities(logits: FloatMatrix) -> FloatMatrix:
    """What a classifier's logits mean, by the rule of text-embeddings-inference.

    Args:
        logits: Shape ``[inputs, labels]``.

    Returns:
        Of the same shape: the sigmoid of a single label's logit, which is a share of its own; of
        several labels the softmax, whose shares sum up to 1.
    """
    if logits.shape[1] == 1:
        small = np.exp(-np.abs(logits))  # never overflows, and is exact where a score is near 0
        return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: FloatMatrix = shares / shares.sum(axis=1, keepdims=True)
    return result
