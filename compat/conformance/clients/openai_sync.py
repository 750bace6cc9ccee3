# SPDX-License-Identifier: Apache-2.0
"""OpenAI's own Python library."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from compat.conformance.checks import (
    expect,
    expect_equal,
    expect_raises,
    expect_same,
    expect_steps,
    expect_unit_length,
    vectors_of,
)
from compat.conformance.registry import Cases, Group
from compat.conformance.samples import TEXTS, TEXTS_AS_IDS, UNKNOWN_MODEL, numbered
from compat.conformance.target import Target

if TYPE_CHECKING:
    from openai import OpenAI

cases = Cases("openai")


def _client(target: Target) -> OpenAI:
    from openai import OpenAI

    # Without retries a server that errs now and then is seen.
    return OpenAI(base_url=target.base_url, api_key=target.sdk_key, max_retries=0)


@cases
def default(target: Target) -> None:
    """Unless told otherwise the library asks for base64, and decodes it."""
    with _client(target) as client:
        raw = client.embeddings.with_raw_response.create(model=target.model, input=TEXTS[0])
    sent = json.loads(raw.http_request.content)
    expect_equal("encoding_format that was sent", sent.get("encoding_format"), "base64")
    received = json.loads(raw.content)["data"][0]["embedding"]
    expect(isinstance(received, str), "the server did not answer in base64")
    vectors = vectors_of(raw.parse().data)
    expect_same(vectors, target.embed(TEXTS[0]), target.least_cosine)


@cases
def encoding_float(target: Target) -> None:
    """Lists of numbers can be asked for."""
    with _client(target) as client:
        answer = client.embeddings.create(
            model=target.model, input=TEXTS[0], encoding_format="float"
        )
    expect_same(vectors_of(answer.data), target.embed(TEXTS[0]), target.least_cosine)


@cases
def list_of_texts(target: Target) -> None:
    """Many texts come back in order, with their usage."""
    texts = numbered(50)
    with _client(target) as client:
        answer = client.embeddings.create(model=target.model, input=texts)
    expect_same(vectors_of(answer.data), target.embed(texts), target.least_cosine)
    expect_equal("object", answer.object, "list")
    expect(answer.usage.prompt_tokens >= len(texts), "usage counts too few tokens")


@cases
def token_ids(target: Target) -> None:
    """Token ids give the vectors of their texts."""
    with _client(target) as client:
        answer = client.embeddings.create(model=target.model, input=TEXTS_AS_IDS)
    expect_same(vectors_of(answer.data), target.embed(TEXTS), target.least_cosine)


@cases
def dimensions(target: Target) -> None:
    """Vectors can be had shorter."""
    size = target.size // 2
    with _client(target) as client:
        answer = client.embeddings.create(model=target.model, input=TEXTS, dimensions=size)
    vectors = vectors_of(answer.data)
    expect_equal("shape", vectors.shape, (len(TEXTS), size))
    expect_unit_length(vectors)


@cases
def models_list(target: Target) -> None:
    """The library lists the models."""
    with _client(target) as client:
        names = [model.id for model in client.models.list()]
    expect_equal("names", names, target.listed_models())


@cases
def models_retrieve(target: Target) -> None:
    """The library describes a model."""
    with _client(target) as client:
        model = client.models.retrieve(target.listed_models()[0])
    expect_equal("object", model.object, "model")
    expect(model.created > 0, "the model has no date")


@cases
def unknown_model(target: Target) -> None:
    """An unknown model raises NotFoundError, with its code and param."""
    from openai import NotFoundError

    with _client(target) as client:
        error = expect_raises(
            NotFoundError, lambda: client.embeddings.create(model=UNKNOWN_MODEL, input=TEXTS[0])
        )
        listed = expect_raises(NotFoundError, lambda: client.models.retrieve(UNKNOWN_MODEL))
    expect_equal("code", error.code, "model_not_found")
    expect_equal("type", error.type, "invalid_request_error")
    expect(bool(error.request_id), "the error has no request id")
    expect_equal("code of models.retrieve", listed.code, "model_not_found")


@cases
def dimensions_out_of_range(target: Target) -> None:
    """Too many dimensions raise BadRequestError, with their param."""
    from openai import BadRequestError

    with _client(target) as client:
        error = expect_raises(
            BadRequestError,
            lambda: client.embeddings.create(
                model=target.model, input=TEXTS[0], dimensions=target.size + 1
            ),
        )
    expect_equal("param", error.param, "dimensions")
    expect_equal("type", error.type, "invalid_request_error")


@cases
def too_long_text(target: Target) -> None:
    """A text that is too long raises BadRequestError with OpenAI's words."""
    from openai import BadRequestError

    with _client(target) as client:
        error = expect_raises(
            BadRequestError,
            lambda: client.embeddings.create(model=target.model, input=target.too_long),
        )
    expect("maximum context length" in str(error), f"the message is {error}")


@cases
def request_id(target: Target) -> None:
    """The request's id can be read from the answer."""
    with _client(target) as client:
        raw = client.embeddings.with_raw_response.create(model=target.model, input=TEXTS[0])
    expect(bool(raw.request_id), "the answer has no request id")
    expect_equal("request id", raw.request_id, raw.headers["x-request-id"])


@cases.of(Group.EXTENSION)
def extra_body(target: Target) -> None:
    """Our extensions pass through extra_body."""
    wanted = target.embed_extended(target.too_long, truncate=True)
    with _client(target) as client:
        answer = client.embeddings.create(
            model=target.model, input=target.too_long, extra_body={"truncate": True}
        )
    expect_same(vectors_of(answer.data), wanted, target.least_cosine)


@cases.of(Group.EXTENSION)
def output_dtype(target: Target) -> None:
    """Small whole numbers come as they are, where encoding_format is said."""
    wanted = target.embed_small(TEXTS[0], "int8")
    options = {"output_dtype": "int8"}
    with _client(target) as client:
        create = client.embeddings.create
        plain = create(
            model=target.model, input=TEXTS[0], encoding_format="float", extra_body=options
        )
        encoded = create(
            model=target.model, input=TEXTS[0], encoding_format="base64", extra_body=options
        )
    expect_steps(vectors_of(plain.data), wanted, "list of numbers")
    raw = base64.b64decode(str(encoded.data[0].embedding))
    expect_equal("bytes", len(raw), wanted.shape[1])


@cases.of(Group.AUTH)
def wrong_key(target: Target) -> None:
    """A wrong key raises AuthenticationError."""
    from openai import AuthenticationError

    with _client(target).with_options(api_key="sk-wrong") as client:
        error = expect_raises(
            AuthenticationError,
            lambda: client.embeddings.create(model=target.model, input=TEXTS[0]),
        )
    expect_equal("code", error.code, "invalid_api_key")
