# SPDX-License-Identifier: Apache-2.0
"""What this project adds to OpenAI's API. A server that lacks it is not at fault."""

from __future__ import annotations

from urllib.parse import quote

import httpx
import numpy as np

from compat.conformance.checks import (
    NotOffered,
    expect,
    expect_equal,
    expect_error,
    expect_same,
    expect_unit_length,
    read_json,
    vectors_of,
)
from compat.conformance.registry import Cases, Group
from compat.conformance.samples import TEXTS, TEXTS_AS_IDS, UNKNOWN_MODEL
from compat.conformance.target import Target

cases = Cases("http", Group.EXTENSION)

NATIVE_IDS = [5, 6, 7, 8]


def _of_model(target: Target, path: str) -> str:
    """The address of a route under the model's own path."""
    return f"{target.root_url}/{quote(target.model)}/v1{path}"


def _offered(response: httpx.Response) -> httpx.Response:
    if response.status_code in (404, 405):
        raise NotOffered(f"{response.request.url.path} is a {response.status_code}")
    return response


@cases
def model_path_embeddings(target: Target) -> None:
    """Under its own path a model need not be named."""
    body = {"input": TEXTS, "encoding_format": "float"}
    response = _offered(target.http.post(_of_model(target, "/embeddings"), json=body))
    expect_equal("status", response.status_code, 200)
    vectors = vectors_of(read_json(response)["data"])
    expect_same(vectors, target.embed(TEXTS), target.least_cosine)


@cases
def model_path_with_model(target: Target) -> None:
    """Under its own path a model may be named; another one is a 404."""
    path = _of_model(target, "/embeddings")
    body = {"input": TEXTS[0], "model": target.model}
    expect_equal("status", _offered(target.http.post(path, json=body)).status_code, 200)
    other = target.http.post(path, json={**body, "model": UNKNOWN_MODEL})
    expect_error(other, 404, code="model_not_found")


@cases
def model_path_models(target: Target) -> None:
    """Under its own path a model lists itself alone."""
    response = _offered(target.http.get(_of_model(target, "/models")))
    names = [model["id"] for model in read_json(response)["data"]]
    expect_equal("number of models", len(names), 1)
    retrieved = target.http.get(_of_model(target, f"/models/{quote(names[0])}"))
    expect_equal("status", retrieved.status_code, 200)


@cases
def model_path_of_unknown_model(target: Target) -> None:
    """The path of a model that is not there is a 404."""
    _offered(target.http.get(_of_model(target, "/models")))
    path = f"{target.root_url}/{UNKNOWN_MODEL}/v1"
    body = {"input": TEXTS[0]}
    expect_error(target.http.post(f"{path}/embeddings", json=body), 404, code="model_not_found")
    expect_error(target.http.get(f"{path}/models"), 404, code="model_not_found")


@cases
def unknown_field(target: Target) -> None:
    """A field that does not exist is refused by name, so that a slip of the pen is seen."""
    response = target.post({"input": TEXTS[0], "normalise": False})
    if response.is_success:
        raise NotOffered("unknown fields are passed over")
    error = expect_error(response, 400, param="normalise")
    expect("normalise" in error.message, "the message does not name the field")


@cases
def normalize_false(target: Target) -> None:
    """With normalize false the vector has the same direction, whatever its length."""
    vectors = target.embed_extended(TEXTS, normalize=False)
    scaled = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expect_same(scaled, target.embed(TEXTS), target.least_cosine)


@cases
def truncate_true(target: Target) -> None:
    """With truncate true a text that is too long is cut rather than refused."""
    vectors = target.embed_extended(target.too_long, truncate=True)
    expect_unit_length(vectors)
    longer = target.embed_extended(target.too_long + TEXTS[0], truncate=True)
    expect_same(longer, vectors, target.least_cosine, "what is left of a longer text")


@cases
def truncation_direction(target: Target) -> None:
    """It can be cut on the left, so that its end is kept."""
    ends = [f"{TEXTS[0]} {target.too_long} {end}" for end in ("Yesterday.", "A volcano!")]
    fields = {"truncate": True, "truncation_direction": "left"}
    one, other = target.embed_extended(ends, **fields)
    expect(float(one @ other) < target.least_cosine, "the end makes no difference")
    one, other = target.embed_extended(ends, truncate=True, truncation_direction="right")
    expect_same(one, other, target.least_cosine)


@cases
def truncate_false(target: Target) -> None:
    """With truncate false it is refused."""
    response = target.extended({"input": target.too_long, "truncate": False})
    expect_error(response, 400)


@cases
def token_encoding_cl100k(target: Target) -> None:
    """Token ids can be declared as cl100k_base."""
    vectors = target.embed_extended(TEXTS_AS_IDS, token_encoding="cl100k_base")  # noqa: S106
    expect_same(vectors, target.embed(TEXTS), target.least_cosine)


@cases
def token_encoding_native(target: Target) -> None:
    """Token ids can be declared as the model's own, which are other texts."""
    native = target.embed_extended(NATIVE_IDS, token_encoding="native")  # noqa: S106
    expect_unit_length(native)
    decoded = target.embed_extended(NATIVE_IDS, token_encoding="cl100k_base")  # noqa: S106
    expect(
        float(native[0] @ decoded[0]) < target.least_cosine,
        "the ids have the same vector under both vocabularies",
    )
    response = target.extended({"input": [10**8], "token_encoding": "native"})
    expect_error(response, 400)


@cases
def token_encoding_reject(target: Target) -> None:
    """Token ids can be declared unwelcome; texts are not concerned."""
    response = target.extended({"input": TEXTS_AS_IDS[0], "token_encoding": "reject"})
    expect_error(response, 400)
    target.embed_extended(TEXTS, token_encoding="reject")  # noqa: S106


@cases
def extension_values(target: Target) -> None:
    """A value that an extension does not have is a 400 that says which field it is."""
    target.embed_extended(TEXTS[0], truncate=True)
    for field, value in (
        ("truncate", "yes"),
        ("truncation_direction", "up"),
        ("normalize", 1),
        ("token_encoding", "klingon"),
    ):
        expect_error(target.post({"input": TEXTS[0], field: value}), 400, param=field)
