# SPDX-License-Identifier: Apache-2.0
"""Haystack's embedders for OpenAI's API."""

from __future__ import annotations

from typing import Any

from compat.conformance.checks import expect, expect_same
from compat.conformance.registry import Cases, library
from compat.conformance.samples import TEXTS, numbered
from compat.conformance.target import Target

cases = Cases("haystack")

# More than the embedder of documents sends in one request, 32.
SOME = 50


def _embedder(target: Target, kind: str, **options: Any) -> Any:
    return getattr(library("haystack.components.embedders"), kind)(
        api_key=library("haystack.utils").Secret.from_token(target.sdk_key),
        api_base_url=target.base_url,
        model=target.model,
        max_retries=0,
        **options,
    )


def _documents(texts: list[str]) -> list[Any]:
    return [library("haystack").Document(content=text) for text in texts]


@cases
def text_embedder(target: Target) -> None:
    """OpenAITextEmbedder gives the vector of a text, and tells what it took."""
    embedder = _embedder(target, "OpenAITextEmbedder")
    answer = embedder.run(TEXTS[0])
    embedder.client.close()
    expect_same(answer["embedding"], target.embed(TEXTS[0]), target.least_cosine)
    expect(answer["meta"]["usage"]["prompt_tokens"] > 0, "usage counts no tokens")


@cases
def document_embedder(target: Target) -> None:
    """OpenAIDocumentEmbedder puts vectors into documents, over several requests."""
    texts = numbered(SOME)
    embedder = _embedder(target, "OpenAIDocumentEmbedder", progress_bar=False)
    documents = embedder.run(_documents(texts))["documents"]
    embedder.client.close()
    vectors = [document.embedding for document in documents]
    expect_same(vectors, target.embed(texts), target.least_cosine)


@cases
def dimensions(target: Target) -> None:
    """Vectors can be had shorter."""
    size = target.size // 2
    embedder = _embedder(target, "OpenAITextEmbedder", dimensions=size)
    vector = embedder.run(TEXTS[0])["embedding"]
    embedder.client.close()
    expect_same(vector, target.embed(TEXTS[0], dimensions=size), target.least_cosine)


@cases
async def asynchronous(target: Target) -> None:
    """Documents can be awaited."""
    embedder = _embedder(target, "OpenAIDocumentEmbedder", progress_bar=False)
    answer = await embedder.run_async(_documents(TEXTS))
    await embedder.async_client.close()
    vectors = [document.embedding for document in answer["documents"]]
    expect_same(vectors, target.embed(TEXTS), target.least_cosine)
