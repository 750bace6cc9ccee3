# SPDX-License-Identifier: Apache-2.0
"""LiteLLM, with the server as a provider of its kind ``openai``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from compat.conformance.checks import expect, expect_raises, expect_same, vectors_of
from compat.conformance.registry import Cases, library
from compat.conformance.samples import TEXTS, UNKNOWN_MODEL, numbered
from compat.conformance.target import Target

cases = Cases("litellm")

SOME = 25


@contextmanager
def _litellm() -> Iterator[Any]:
    litellm = library("litellm")
    litellm.telemetry = False
    # Otherwise it prints a request for feedback with every error.
    litellm.suppress_debug_info = True
    try:
        yield litellm
    finally:
        # It keeps clients for an hour, and their connections with them.
        cache = litellm.in_memory_llm_clients_cache
        for key, client in list(cache.cache_dict.items()):
            if isinstance(client, library("openai").OpenAI):
                client.close()
                cache.delete_cache(key)


def _fields(target: Target, texts: list[str], model: str | None = None) -> dict[str, Any]:
    return {
        "model": f"openai/{model or target.model}",
        "input": texts,
        "api_base": target.base_url,
        "api_key": target.sdk_key,
    }


@cases
def embedding(target: Target) -> None:
    """Texts have the vectors of their texts, in order."""
    texts = numbered(SOME)
    with _litellm() as litellm:
        answer = litellm.embedding(**_fields(target, texts))
    expect_same(vectors_of(answer.data), target.embed(texts), target.least_cosine)
    expect(answer.usage.prompt_tokens > 0, "usage counts no tokens")


@cases
async def aembedding(target: Target) -> None:
    """So they have when they are awaited."""
    with _litellm() as litellm:
        answer = await litellm.aembedding(**_fields(target, TEXTS))
        await litellm.close_litellm_async_clients()
    expect_same(vectors_of(answer.data), target.embed(TEXTS), target.least_cosine)


@cases
def dimensions(target: Target) -> None:
    """Vectors can be had shorter, once LiteLLM is told that the model can do so."""
    size = target.size // 2
    fields = {"dimensions": size, "allowed_openai_params": ["dimensions"]}
    with _litellm() as litellm:
        answer = litellm.embedding(**_fields(target, TEXTS), **fields)
    expect_same(vectors_of(answer.data), target.embed(TEXTS, dimensions=size), target.least_cosine)


@cases
def unknown_model(target: Target) -> None:
    """An unknown model raises NotFoundError."""
    with _litellm() as litellm:
        fields = _fields(target, TEXTS, UNKNOWN_MODEL)
        expect_raises(litellm.NotFoundError, lambda: litellm.embedding(**fields))


@cases
def too_long_text(target: Target) -> None:
    """A text that is too long raises ContextWindowExceededError, by OpenAI's words."""
    with _litellm() as litellm:
        fields = _fields(target, [target.too_long])
        expect_raises(litellm.ContextWindowExceededError, lambda: litellm.embedding(**fields))


@cases
def empty_text(target: Target) -> None:
    """The empty text raises BadRequestError."""
    with _litellm() as litellm:
        fields = _fields(target, [""])
        expect_raises(litellm.BadRequestError, lambda: litellm.embedding(**fields))
