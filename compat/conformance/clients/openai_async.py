# SPDX-License-Identifier: Apache-2.0
"""OpenAI's own Python library, asynchronous."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from compat.conformance.checks import (
    expect,
    expect_equal,
    expect_raises_async,
    expect_same,
    vectors_of,
)
from compat.conformance.registry import Cases
from compat.conformance.samples import TEXTS, UNKNOWN_MODEL, numbered
from compat.conformance.target import Target

if TYPE_CHECKING:
    from openai import AsyncOpenAI

cases = Cases("openai-async")

CALLS = 32


def _client(target: Target) -> AsyncOpenAI:
    from openai import AsyncOpenAI

    return AsyncOpenAI(base_url=target.base_url, api_key=target.sdk_key, max_retries=0)


@cases
async def default(target: Target) -> None:
    """Unless told otherwise the library asks for base64, and decodes it."""
    async with _client(target) as client:
        answer = await client.embeddings.create(model=target.model, input=TEXTS)
    expect_same(vectors_of(answer.data), target.embed(TEXTS), target.least_cosine)


@cases
async def encoding_float(target: Target) -> None:
    """Lists of numbers can be asked for."""
    async with _client(target) as client:
        answer = await client.embeddings.create(
            model=target.model, input=TEXTS, encoding_format="float"
        )
    expect_same(vectors_of(answer.data), target.embed(TEXTS), target.least_cosine)


@cases
async def concurrent_calls(target: Target) -> None:
    """Of 32 calls at once each gets the vector of its own text."""
    texts = numbered(CALLS)
    async with _client(target) as client:
        answers = await asyncio.gather(
            *(client.embeddings.create(model=target.model, input=text) for text in texts)
        )
    vectors = np.vstack([vectors_of(answer.data) for answer in answers])
    expect_same(vectors, target.embed(texts), target.least_cosine)


@cases
async def models(target: Target) -> None:
    """The library lists and describes the models."""
    async with _client(target) as client:
        names = [model.id async for model in client.models.list()]
        described = await client.models.retrieve(names[0])
    expect_equal("names", names, target.listed_models())
    expect_equal("id", described.id, names[0])


@cases
async def unknown_model(target: Target) -> None:
    """An unknown model raises NotFoundError."""
    from openai import NotFoundError

    async with _client(target) as client:
        error = await expect_raises_async(
            NotFoundError, client.embeddings.create(model=UNKNOWN_MODEL, input=TEXTS[0])
        )
    expect_equal("code", error.code, "model_not_found")


@cases
async def empty_text(target: Target) -> None:
    """The empty text raises BadRequestError."""
    from openai import BadRequestError

    async with _client(target) as client:
        error = await expect_raises_async(
            BadRequestError, client.embeddings.create(model=target.model, input="")
        )
    expect_equal("type", error.type, "invalid_request_error")


@cases
async def request_id(target: Target) -> None:
    """The request's id can be read from the answer."""
    async with _client(target) as client:
        raw = await client.embeddings.with_raw_response.create(model=target.model, input=TEXTS[0])
    expect(bool(raw.request_id), "the answer has no request id")
