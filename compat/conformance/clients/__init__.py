# SPDX-License-Identifier: Apache-2.0
"""The clients, one module each."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from importlib.metadata import version

from compat.conformance.clients import (
    chroma,
    cohere,
    haystack,
    huggingface,
    langchain,
    langchain_cohere,
    langchain_huggingface,
    langchain_ollama,
    litellm,
    llama_index,
    llama_index_ollama,
    llama_index_tei,
    node,
    ollama,
    openai_async,
    openai_sync,
    raw_http,
)
from compat.conformance.registry import Case, Client

__all__ = ["CLIENTS"]


def _python(name: str, cases: Iterable[Case], package: str, calls: str, *modules: str) -> Client:
    """A client that a Python package is.

    Args:
        name: Its name in the table.
        cases: What is expected of the server on its behalf.
        package: What pip installs.
        calls: What the cases call.
        modules: Those it must have. None: the one with the package's name.
    """
    return Client(
        name,
        list(cases),
        _has(*(modules or (package.replace("-", "_"),))),
        f"pip install {package}",
        calls,
        lambda: f"{package} {version(package)}",
    )


def _has(*modules: str) -> Callable[[], bool]:
    def installed() -> bool:
        try:
            return all(importlib.util.find_spec(module) for module in modules)
        except ModuleNotFoundError:  # the package around a module is missing
            return False

    return installed


CLIENTS = (
    _python("http", raw_http.cases, "httpx", "`/v1/embeddings`, `/v1/models`"),
    _python("openai", openai_sync.cases, "openai", "`OpenAI`"),
    _python("openai-async", openai_async.cases, "openai", "`AsyncOpenAI`"),
    _python("langchain", langchain.cases, "langchain-openai", "`OpenAIEmbeddings`"),
    _python(
        "llama-index",
        llama_index.cases,
        "llama-index-embeddings-openai-like",
        "`OpenAIEmbedding`, `OpenAILikeEmbedding`",
        "llama_index.embeddings.openai",
        "llama_index.embeddings.openai_like",
    ),
    _python("litellm", litellm.cases, "litellm", "`embedding`, `aembedding`"),
    _python(
        "haystack",
        haystack.cases,
        "haystack-ai",
        "`OpenAITextEmbedder`, `OpenAIDocumentEmbedder`",
        "haystack",
    ),
    _python(
        "chroma",
        chroma.cases,
        "chromadb",
        "`OpenAIEmbeddingFunction`, `HuggingFaceEmbeddingServer`, `OllamaEmbeddingFunction`, "
        "`CohereEmbeddingFunction`",
        *("chromadb", "cohere", "ollama", "openai"),
    ),
    _python(
        "huggingface-hub",
        huggingface.cases,
        "huggingface-hub",
        "`InferenceClient` and `AsyncInferenceClient`: `feature_extraction`, `sentence_similarity`",
    ),
    _python(
        "langchain-huggingface",
        langchain_huggingface.cases,
        "langchain-huggingface",
        "`HuggingFaceEndpointEmbeddings`",
    ),
    _python(
        "llama-index-tei",
        llama_index_tei.cases,
        "llama-index-embeddings-text-embeddings-inference",
        "`TextEmbeddingsInference`",
        "llama_index.embeddings.text_embeddings_inference",
    ),
    _python(
        "ollama",
        ollama.cases,
        "ollama",
        "`Client` and `AsyncClient`: `embed`, `embeddings`, `list`, `ps`",
    ),
    _python("langchain-ollama", langchain_ollama.cases, "langchain-ollama", "`OllamaEmbeddings`"),
    _python(
        "llama-index-ollama",
        llama_index_ollama.cases,
        "llama-index-embeddings-ollama",
        "`OllamaEmbedding`",
        "llama_index.embeddings.ollama",
    ),
    _python(
        "cohere",
        cohere.cases,
        "cohere",
        "`ClientV2`, `AsyncClientV2` and `Client`: `embed`, `rerank`",
    ),
    _python(
        "langchain-cohere",
        langchain_cohere.cases,
        "langchain-cohere",
        "`CohereEmbeddings`, `CohereRerank`",
    ),
    *node.clients,
)
