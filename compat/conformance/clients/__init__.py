# SPDX-License-Identifier: Apache-2.0
"""The clients, one module each."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from compat.conformance.clients import (
    langchain,
    litellm,
    llama_index,
    node,
    openai_async,
    openai_sync,
    raw_http,
)
from compat.conformance.registry import Client

__all__ = ["CLIENTS"]


def _has(*modules: str) -> Callable[[], bool]:
    def installed() -> bool:
        try:
            return all(importlib.util.find_spec(module) for module in modules)
        except ModuleNotFoundError:  # the package around a module is missing
            return False

    return installed


CLIENTS = (
    Client("http", raw_http.cases, _has("httpx"), "pip install httpx"),
    Client("openai", list(openai_sync.cases), _has("openai"), "pip install openai"),
    Client("openai-async", list(openai_async.cases), _has("openai"), "pip install openai"),
    Client(
        "langchain",
        list(langchain.cases),
        _has("langchain_openai"),
        "pip install langchain-openai",
    ),
    Client(
        "llama-index",
        list(llama_index.cases),
        _has("llama_index.embeddings.openai", "llama_index.embeddings.openai_like"),
        "pip install llama-index-embeddings-openai-like",
    ),
    Client("litellm", list(litellm.cases), _has("litellm"), "pip install litellm"),
    Client("node", node.cases, node.is_installed, node.INSTALL),
)
