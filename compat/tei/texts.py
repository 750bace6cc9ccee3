# SPDX-License-Identifier: Apache-2.0
"""Requests that no model computes for: what it is, and texts to tokens and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import appliance
from appliance.engine.cores import available_cores
from appliance.engine.prompts import choose_prompt
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.engine.types import EmbedOptions, ModelCard
from compat.tei.answers import (
    TeiClassifierType,
    TeiEmbeddingType,
    TeiInfo,
    TeiModelType,
    TeiToken,
)
from compat.tei.errors import NothingGiven, invalid
from compat.tei.requests import TeiDecodeRequest, TeiTokenizeRequest
from compat.tei.tasks import cuts_by_default

__all__ = ["decode", "describe", "tokenize"]


async def describe(engine: Engine, model: ServedModel) -> TeiInfo:
    """``/info``: the model and its limits."""
    card, settings = await engine.card(model), model.settings
    return TeiInfo(
        model_id=settings.model,
        model_sha=card.revision,
        model_dtype=card.dtype,
        served_model_name=model.name,
        model_type=_model_type(card),
        max_concurrent_requests=settings.max_concurrent_requests,
        max_input_length=card.max_input_tokens,
        max_batch_tokens=settings.max_batch_tokens,
        max_batch_requests=settings.max_batch_requests,
        max_client_batch_size=settings.max_client_batch_size,
        auto_truncate=cuts_by_default(settings),
        tokenization_workers=settings.tokenization_workers or max(1, available_cores() - 1),
        version=appliance.__version__,
    )


def _model_type(card: ModelCard) -> TeiModelType:
    if card.kind in ("embedding", "sparse"):
        return TeiModelType(embedding=TeiEmbeddingType(card.pooling or "none"))
    labels = TeiClassifierType(
        id2label={str(number): label for number, label in enumerate(card.labels)},
        label2id={label: number for number, label in enumerate(card.labels)},
    )
    if card.kind == "reranker":
        return TeiModelType(reranker=labels)
    return TeiModelType(classifier=labels)


async def tokenize(
    engine: Engine, model: ServedModel, asked: TeiTokenizeRequest
) -> list[list[TeiToken]]:
    """``/tokenize``: the tokens of each text."""
    texts = [asked.inputs] if isinstance(asked.inputs, str) else asked.inputs
    if not texts:
        raise NothingGiven("inputs")
    card = await engine.card(model)
    options = EmbedOptions(prompt_name=asked.prompt_name)
    prompt = choose_prompt(card.prompts, None, model.settings, options)
    found = await engine.tokenize(
        model, texts, add_special_tokens=asked.add_special_tokens, prompt=prompt
    )
    return [
        [TeiToken(token.id, token.text, token.special, token.start, token.stop) for token in tokens]
        for tokens in found
    ]


async def decode(engine: Engine, model: ServedModel, asked: TeiDecodeRequest) -> list[str]:
    """``/decode``: the text of each list of ids."""
    kinds = {type(item) for item in asked.ids}
    if len(kinds) > 1:
        raise invalid("`ids` must be all token ids, or all lists of token ids", "ids")
    lists = cast("Sequence[Sequence[int]]", asked.ids if kinds == {list} else [asked.ids])
    if not all(lists):
        raise invalid("`input_ids` cannot be empty", "ids")
    return await engine.decode(model, lists, skip_special_tokens=asked.skip_special_tokens)
