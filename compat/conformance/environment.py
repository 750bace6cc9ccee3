# SPDX-License-Identifier: Apache-2.0
"""The environment that client libraries find: no calls home, no network but the server's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from appliance.engine.vocabulary import vocabulary_folders

__all__ = ["quiet_environment", "variables"]

_SET = {
    # Otherwise fetched from the network at import.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    # In its other mode it reads .env files it comes across.
    "LITELLM_MODE": "PRODUCTION",
    "LANGSMITH_TRACING": "false",
    "LANGSMITH_TRACING_V2": "false",
    "LANGCHAIN_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "ANONYMIZED_TELEMETRY": "false",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}

# Meant for the services that the clients were made for; each changes what is sent, or where to.
_UNSET = (
    "COHERE_API_KEY",
    "CO_API_KEY",
    "CO_API_URL",
    "HF_TOKEN",
    "HUGGINGFACEHUB_API_TOKEN",
    "HUGGINGFACE_API_KEY",
    "OLLAMA_API_KEY",
    "OLLAMA_HOST",
    "OPENAI_API_BASE",
    "OPENAI_API_KEY",
    "OPENAI_API_TYPE",
    "OPENAI_API_VERSION",
    "OPENAI_BASE_URL",
    "OPENAI_CUSTOM_HEADERS",
    "OPENAI_ORGANIZATION",
    "OPENAI_ORG_ID",
    "OPENAI_PROJECT_ID",
    "OPENAI_PROXY",
)


@contextmanager
def quiet_environment() -> Iterator[None]:
    """Set the environment for client libraries, and put it back afterwards."""
    with variables(_SET):
        for name in _UNSET:
            os.environ.pop(name, None)
        if folder := next(vocabulary_folders(), None):
            os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(folder))
        yield


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables, and put the whole environment back afterwards."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
