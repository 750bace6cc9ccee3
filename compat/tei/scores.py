# SPDX-License-Identifier: Apache-2.0
"""Requests for scores: of labels, and of texts for a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from appliance.engine.inputs import Inputs, check_count
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.engine.types import EmbedOptions, Scores, Timings
from appliance.errors import WrongModelKind
from compat.tei.errors import NothingGiven, invalid
from compat.tei.rendering import in_list, predictions, ranks
from compat.tei.requests import TeiPredictRequest, TeiRerankRequest
from compat.tei.tasks import Task, options_of

__all__ = ["predict", "rerank"]


def predict(engine: Engine, model: ServedModel, asked: TeiPredictRequest) -> Task[Scores]:
    """``/predict``: a score of each label for each input."""
    inputs = _sequences(asked.inputs)
    options = options_of(model, asked)

    async def work() -> Scores:
        return await _score(engine, model, inputs, options, raw=asked.raw_scores)

    def render(result: Scores) -> bytes:
        rows = [predictions(row, result.labels) for row in result.rows]
        return rows[0] if inputs.single else in_list(rows)

    return Task(inputs, work, render)


def rerank(engine: Engine, model: ServedModel, asked: TeiRerankRequest) -> Task[Scores]:
    """``/rerank``: a score of each text for one query."""
    if not asked.texts:
        raise NothingGiven("texts")
    inputs = Inputs([(asked.query, text) for text in asked.texts], field="texts")
    options = options_of(model, asked)
    texts = asked.texts if asked.return_text else None

    async def work() -> Scores:
        if (await engine.card(model)).kind != "reranker":
            raise WrongModelKind("model is not a re-ranker model")
        return await engine.score(model, inputs, options, raw=asked.raw_scores)

    return Task(inputs, work, lambda result: ranks(result.rows, texts))


def _sequences(value: str | Sequence[str | list[str]]) -> Inputs:
    """Tell a text, a pair and a batch apart."""
    if isinstance(value, str):
        return Inputs([value], single=True, field="inputs")
    is_batch = any(isinstance(item, list) for item in value)
    items = value if is_batch else [value]
    if not all(isinstance(item, list) and 1 <= len(item) <= 2 for item in items):
        raise invalid(
            "`inputs` must be a string, a pair of strings [string, string], or a batch of strings"
            " and pairs [[string], [string, string], ...]",
            "inputs",
        )
    sequences = [item[0] if len(item) == 1 else tuple(item) for item in items]
    return Inputs(cast("Any", sequences), single=not is_batch, field="inputs")


async def _score(
    engine: Engine, model: ServedModel, inputs: Inputs, options: EmbedOptions, *, raw: bool
) -> Scores:
    """Score texts, pairs, or both, which the engine takes one kind at a time."""
    are_pairs = np.array([isinstance(item, tuple) for item in inputs.items])
    if are_pairs.all() or not are_pairs.any():
        return await engine.score(model, inputs, options, raw=raw)
    check_count(inputs, model.settings)
    kinds = [np.flatnonzero(~are_pairs).tolist(), np.flatnonzero(are_pairs).tolist()]
    parts = []
    for kind in kinds:
        some = replace(inputs, items=cast("Any", [inputs.items[n] for n in kind]))
        parts.append(await engine.score(model, some, options, raw=raw))
    in_order = np.argsort(np.concatenate(kinds))
    return Scores(
        np.concatenate([part.rows for part in parts])[in_order],
        parts[0].labels,
        sum(part.tokens for part in parts),
        Timings.of_parts([part.timings for part in parts]),
    )
