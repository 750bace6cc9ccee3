# SPDX-License-Identifier: Apache-2.0
"""Chroma's embedding functions, and a collection that uses one.

They read keys from variables, as Chroma wants them to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from compat.conformance.checks import expect_equal, expect_same
from compat.conformance.environment import variables
from compat.conformance.registry import Cases, Group, library
from compat.conformance.samples import TEXTS, numbered
from compat.conformance.target import Target

cases = Cases("chroma")

SOME = 25
KEY = "CONFORMANCE_KEY"


@contextmanager
def _function(target: Target, name: str, **options: Any) -> Iterator[Any]:
    functions = library("chromadb.utils.embedding_functions")
    with variables({KEY: target.sdk_key, "OLLAMA_API_KEY": target.sdk_key}):
        yield getattr(functions, name)(**options)


@contextmanager
def _openai(target: Target) -> Iterator[Any]:
    options = {"model_name": target.model, "api_base": target.base_url, "api_key_env_var": KEY}
    with _function(target, "OpenAIEmbeddingFunction", **options) as embed, embed.client:
        yield embed


@cases
def openai_function(target: Target) -> None:
    """OpenAIEmbeddingFunction gives the vectors of texts, in order."""
    texts = numbered(SOME)
    with _openai(target) as embed:
        vectors = embed(texts)
    expect_same(vectors, target.embed(texts), target.least_cosine)


@cases.of(Group.TEI)
def huggingface_server(target: Target) -> None:
    """HuggingFaceEmbeddingServer, whose URL is that of /embed, does."""
    options = {"url": f"{target.model_url}/embed", "api_key_env_var": KEY}
    with _function(target, "HuggingFaceEmbeddingServer", **options) as embed, embed._session:
        vectors = embed(numbered(SOME))
    expect_same(vectors, target.embed(numbered(SOME)), target.least_cosine)


@cases.of(Group.OLLAMA)
def ollama_function(target: Target) -> None:
    """OllamaEmbeddingFunction does."""
    options = {"url": target.root_url, "model_name": target.model}
    with (
        _function(target, "OllamaEmbeddingFunction", **options) as embed,
        closing(embed._client._client),
    ):
        vectors = embed(numbered(SOME))
    expect_same(vectors, target.embed(numbered(SOME)), target.least_cosine)


@cases.of(Group.COHERE)
def cohere_function(target: Target) -> None:
    """CohereEmbeddingFunction gives the vectors of documents."""
    options = {"model_name": target.model, "api_key_env_var": KEY}
    with _function(target, "CohereEmbeddingFunction", **options) as embed:
        # It is told where by CO_API_URL, which is read when cohere is first imported.
        place = {"api_key": target.sdk_key, "base_url": target.root_url}
        embed.client = library("cohere").Client(**place)
        with embed.client:
            vectors = embed(TEXTS)
    wanted = target.embed_extended(TEXTS, input_type="document")
    expect_same(vectors, wanted, target.least_cosine)


@cases
def collection(target: Target) -> None:
    """A text is found in a collection by its own words."""
    with _openai(target) as embed:
        client = library("chromadb").EphemeralClient()
        found = client.get_or_create_collection("conformance", embedding_function=embed)
        found.add(ids=[str(number) for number in range(len(TEXTS))], documents=TEXTS)
        answer = found.query(query_texts=[TEXTS[1]], n_results=1)
        client.delete_collection("conformance")
    expect_equal("ids", answer["ids"], [["1"]])
