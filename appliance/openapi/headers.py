# SPDX-License-Identifier: Apache-2.0
"""Groups of routes, headers of answers, and the answers that no route gives."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

__all__ = ["HEADERS", "OPENAI_HEADERS", "QUOTA_HEADERS", "TAGS", "TEI_HEADERS", "UNREADABLE"]

TAGS = {
    "Embeddings": "OpenAI's API, at the root and under each model's name.",
    "TEI": "The API of text-embeddings-inference, at the root for the first model and under each"
    " model's name.",
    "Reranking": "Texts ranked by a query, as Jina's and Cohere's APIs do it.",
    "Batches": "OpenAI's Batch API: files of requests that are worked off behind the live ones.",
    "Ollama": "Ollama's API, as far as it is about embeddings.",
    "Cohere": "Cohere's embed API, at the root and under each model's name.",
    "Models": "Models added, removed, loaded and put away while the server runs.",
    "Tokens": "Tokens made, listed and revoked.",
    "Configuration": "The settings, exported and imported.",
    "Status": "What the instance does and takes.",
    "Health": "For load balancers and orchestrators.",
}
"""Groups of routes, in the order in which they are shown."""

TEI_HEADERS = (
    "x-compute-type",
    "x-compute-time",
    "x-compute-characters",
    "x-compute-tokens",
    "x-total-time",
    "x-tokenization-time",
    "x-queue-time",
    "x-inference-time",
)
OPENAI_HEADERS = ("openai-processing-ms", "openai-version")
QUOTA_HEADERS = tuple(
    f"x-ratelimit-{what}-{kind}"
    for what in ("limit", "remaining", "reset")
    for kind in ("requests", "tokens")
)

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_COUNT_FROM_ONE = {"type": "integer", "minimum": 1}

HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "x-request-id": (
        "The request's id: its own header of this name if fit to be logged, else a new one.",
        {"type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,128}$"},
    ),
    "retry-after": ("Seconds after which to try again.", _COUNT_FROM_ONE),
    "retry-after-ms": ("The same in milliseconds.", _COUNT),
    "www-authenticate": ("`Bearer`.", _TEXT),
    "location": ("Path of what was made.", _TEXT),
    "openai-processing-ms": ("Milliseconds that the answer took.", _COUNT),
    "openai-version": ("Version of OpenAI's API.", _TEXT),
    "server-timing": (
        "Milliseconds of each step: tokenising, waiting in the queue, computing, encoding.",
        _TEXT,
    ),
    "x-compute-type": ("`gpu+optimized` or `cpu+optimized`.", _TEXT),
    "x-compute-time": ("Milliseconds that the answer took.", _COUNT),
    "x-compute-characters": ("Characters of the inputs.", _COUNT),
    "x-compute-tokens": ("Tokens that the model saw.", _COUNT),
    "x-total-time": ("Milliseconds that the answer took.", _COUNT),
    "x-tokenization-time": ("Milliseconds of tokenising.", _COUNT),
    "x-queue-time": ("Milliseconds of waiting in the queue.", _COUNT),
    "x-inference-time": ("Milliseconds of computing.", _COUNT),
    "x-ratelimit-limit-requests": ("Requests that the key may make in a minute.", _COUNT),
    "x-ratelimit-limit-tokens": ("Tokens that the key may spend in a minute.", _COUNT),
    "x-ratelimit-remaining-requests": ("Requests that are left.", _COUNT),
    "x-ratelimit-remaining-tokens": ("Tokens that are left.", _COUNT),
    "x-ratelimit-reset-requests": ("Time until all requests are there again: `6m0s`.", _TEXT),
    "x-ratelimit-reset-tokens": ("Time until all tokens are there again: `6m0s`.", _TEXT),
}
"""What each header tells, and its schema."""

UNREADABLE = {
    HTTPStatus.REQUEST_URI_TOO_LONG: "Path and query together are longer than 8 KiB.",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "There are more than 100 headers, or 64 KiB of"
    " them.",
}
"""Refusals of requests that no route has seen, in plain text."""
