# SPDX-License-Identifier: Apache-2.0
"""The Hugging Face Hub's ``InferenceClient``: every task is posted to the URL it is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from compat.conformance.checks import expect_equal, expect_raises, expect_same, expect_scores
from compat.conformance.registry import Cases, Group, library
from compat.conformance.samples import TEXTS
from compat.conformance.target import Target

cases = Cases("huggingface-hub", Group.TEI)


def library_of_the_hub() -> Any:
    """The library, kept from asking the Hub which programs it may find itself called by."""
    with suppress(ModuleNotFoundError):  # earlier versions do not ask
        asking = library("huggingface_hub.utils._detect_agent")
        asking._registry = {"standardEnvVars": [], "harnesses": {}}
    return library("huggingface_hub")


@contextmanager
def _client(target: Target, path: str = "") -> Iterator[Any]:
    hub = library_of_the_hub()
    with hub.InferenceClient(base_url=target.model_url + path, token=target.sdk_key) as client:
        try:
            yield client
        finally:
            hub.close_session()


@cases
def feature_extraction(target: Target) -> None:
    """One text gives one vector, in a list."""
    with _client(target) as client:
        vectors = client.feature_extraction(TEXTS[0])
    expect_same(vectors, target.embed(TEXTS[0]), target.least_cosine)


@cases
def feature_extraction_of_many(target: Target) -> None:
    """Texts have the vectors of their texts, in order."""
    with _client(target) as client:
        vectors = client.feature_extraction(TEXTS)
    expect_same(vectors, target.embed(TEXTS), target.least_cosine)


@cases
def feature_extraction_with_options(target: Target) -> None:
    """What the client lets one say is heeded: length, cut and scale."""
    wanted = target.embed_extended(target.too_long, truncate=True, dimensions=target.size // 2)
    with _client(target) as client:
        vectors = client.feature_extraction(
            target.too_long,
            truncate=True,
            truncation_direction="right",
            normalize=True,
            dimensions=target.size // 2,
        )
    expect_same(vectors, wanted, target.least_cosine)


@cases
def embed_path(target: Target) -> None:
    """The URL may be that of the route /embed."""
    with _client(target, "/embed") as client:
        vectors = client.feature_extraction(TEXTS)
    expect_same(vectors, target.embed(TEXTS), target.least_cosine)


@cases
def sentence_similarity(target: Target) -> None:
    """Sentences are compared with one by the cosines of their vectors."""
    with _client(target) as client:
        scores = client.sentence_similarity(TEXTS[0], other_sentences=TEXTS)
    expect_scores(scores, target.cosines(TEXTS[0], TEXTS))


@cases
def similarity_path(target: Target) -> None:
    """So they are at the URL of the route /similarity."""
    with _client(target, "/similarity") as client:
        scores = client.sentence_similarity(TEXTS[0], other_sentences=TEXTS)
    expect_scores(scores, target.cosines(TEXTS[0], TEXTS))


@cases
async def asynchronous(target: Target) -> None:
    """Both can be awaited."""
    client_class = library_of_the_hub().AsyncInferenceClient
    async with client_class(base_url=target.model_url, token=target.sdk_key) as client:
        vectors = await client.feature_extraction(TEXTS)
        scores = await client.sentence_similarity(TEXTS[0], other_sentences=TEXTS)
    expect_same(vectors, target.embed(TEXTS), target.least_cosine)
    expect_scores(scores, target.cosines(TEXTS[0], TEXTS))


@cases
def too_many_dimensions(target: Target) -> None:
    """Too many dimensions raise HfHubHTTPError with the status that TEI gives."""
    error_class = library_of_the_hub().errors.HfHubHTTPError
    with _client(target) as client:
        error = expect_raises(
            error_class,
            lambda: client.feature_extraction(TEXTS[0], dimensions=target.size + 1),
        )
    expect_equal("status", error.response.status_code, 422)
