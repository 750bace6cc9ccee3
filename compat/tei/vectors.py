# SPDX-License-Identifier: Apache-2.0
"""Requests for vectors, of texts and of tokens, and for what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from appliance.engine.inputs import Inputs
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.engine.types import Embedding, SparseEmbedding, TokenEmbedding
from compat.rendering import render_rows, render_sparse, render_vector
from compat.tei.errors import NothingGiven, invalid
from compat.tei.rendering import in_list
from compat.tei.requests import (
    TeiEmbedRequest,
    TeiSimilarityParameters,
    TeiSimilarityRequest,
    TeiTextsRequest,
)
from compat.tei.tasks import Task, options_of

__all__ = ["embed", "embed_all", "embed_sparse", "similarity"]


def embed(engine: Engine, model: ServedModel, asked: TeiEmbedRequest) -> Task[Embedding]:
    """``/embed``: a vector of each input."""
    inputs = _inputs(asked.inputs)
    options = options_of(
        model,
        asked,
        prompt_name=asked.prompt_name,
        normalize=asked.normalize,
        dimensions=asked.dimensions,
    )

    async def work() -> Embedding:
        await _check_dimensions(engine, model, asked.dimensions)
        return await engine.embed(model, inputs, options)

    return Task(inputs, work, lambda result: render_rows(result.vectors))


def embed_all(engine: Engine, model: ServedModel, asked: TeiTextsRequest) -> Task[TokenEmbedding]:
    """``/embed_all``: a vector of each token."""
    inputs = _inputs(asked.inputs)
    options = options_of(model, asked, prompt_name=asked.prompt_name)
    return Task(
        inputs,
        lambda: engine.embed_tokens(model, inputs, options),
        lambda result: in_list(map(render_rows, result.rows)),
    )


def embed_sparse(
    engine: Engine, model: ServedModel, asked: TeiTextsRequest
) -> Task[SparseEmbedding]:
    """``/embed_sparse``: values of the words that count for each input."""
    inputs = _inputs(asked.inputs)
    options = options_of(model, asked, prompt_name=asked.prompt_name)
    return Task(
        inputs,
        lambda: engine.embed_sparse(model, inputs, options),
        lambda result: in_list(map(render_sparse, result.rows)),
    )


def similarity(engine: Engine, model: ServedModel, asked: TeiSimilarityRequest) -> Task[Embedding]:
    """``/similarity``: the cosine of one sentence's vector and each of the others'."""
    if not asked.inputs.sentences:
        raise NothingGiven("inputs.sentences")
    parameters = asked.parameters or TeiSimilarityParameters()
    inputs = Inputs([asked.inputs.source_sentence, *asked.inputs.sentences], field="inputs")
    options = options_of(model, parameters, prompt_name=parameters.prompt_name, normalize=True)

    def render(result: Embedding) -> bytes:
        return bytes(render_vector(result.vectors[1:] @ result.vectors[0], as_base64=False))

    return Task(inputs, lambda: engine.embed(model, inputs, options), render)


def _inputs(value: str | Sequence[str | int | list[int]]) -> Inputs:
    """Tell the four forms of ``inputs`` apart."""
    if isinstance(value, str):
        return Inputs([value], single=True, field="inputs")
    if not value:
        raise NothingGiven("inputs")
    kinds = {type(item) for item in value}
    if kinds == {int}:
        return Inputs([cast("list[int]", value)], single=True, field="inputs")
    if len(kinds) > 1:
        raise invalid(
            "`inputs` must be all strings, all token ids, or all lists of token ids", "inputs"
        )
    return Inputs(cast("list[str] | list[list[int]]", value), field="inputs")


async def _check_dimensions(engine: Engine, model: ServedModel, dimensions: int | None) -> None:
    if dimensions is None:
        return
    if dimensions == 0:
        raise invalid("`dimensions` should be positive", "dimensions")
    if dimensions > (await engine.card(model)).dimension:
        raise invalid(
            "`dimensions` should be smaller than the maximum embedding dimension.", "dimensions"
        )
