# SPDX-License-Identifier: Apache-2.0
"""What is refused, and in which words."""

from __future__ import annotations

import httpx

from compat.conformance.checks import expect, expect_error
from compat.conformance.registry import Cases
from compat.conformance.samples import TEXTS, UNKNOWN_MODEL
from compat.conformance.target import Target

cases = Cases("http")

MOST_INPUTS = 2048
JSON = {"content-type": "application/json"}


@cases
def unknown_model(target: Target) -> None:
    """A model that is not there is a 404 with the code that clients look for."""
    response = target.post({"model": UNKNOWN_MODEL, "input": TEXTS[0]})
    error = expect_error(response, 404, code="model_not_found")
    expect(UNKNOWN_MODEL in error.message, "the message does not name the model")


@cases
def missing_model(target: Target) -> None:
    """A request without a model is a 400."""
    expect_error(target.http.post("/embeddings", json={"input": TEXTS[0]}), 400)


@cases
def missing_input(target: Target) -> None:
    """A request without an input is a 400."""
    expect_error(target.post({}), 400)


@cases
def input_null(target: Target) -> None:
    """An input of null is a 400."""
    expect_error(target.post({"input": None}), 400)


@cases
def input_empty_string(target: Target) -> None:
    """The empty text is a 400."""
    expect_error(target.post({"input": ""}), 400)


@cases
def input_empty_list(target: Target) -> None:
    """No text at all is a 400."""
    expect_error(target.post({"input": []}), 400)


@cases
def input_with_empty_item(target: Target) -> None:
    """The empty text or the empty list of ids among others is a 400."""
    expect_error(target.post({"input": [TEXTS[0], ""]}), 400)
    expect_error(target.post({"input": [[791], []]}), 400)


@cases
def input_mixed(target: Target) -> None:
    """A list that mixes texts, ids and lists of ids is a 400."""
    for mixed in (["a", 1], [1, "a"], [[791], "a"], ["a", [791]], [1, [791]], ["a", None]):
        expect_error(target.post({"input": mixed}), 400)


@cases
def input_of_other_types(target: Target) -> None:
    """Numbers, objects, fractions and truth values are no input."""
    for wrong in (1, {"text": "a"}, True, [1.5], [True], [{"text": "a"}], [[1.5]], [["a"]]):
        expect_error(target.post({"input": wrong}), 400)


@cases
def input_of_impossible_ids(target: Target) -> None:
    """Token ids that no vocabulary has are a 400."""
    for wrong in ([-1], [10**9], [2**70], [[-1]]):
        expect_error(target.post({"input": wrong}), 400)


@cases
def too_many_inputs(target: Target) -> None:
    """More than 2048 inputs are a 400."""
    expect_error(target.post({"input": ["a"] * (MOST_INPUTS + 1)}), 400)


@cases
def too_long_text(target: Target) -> None:
    """A text longer than the model reads is a 400 in the words that clients look for."""
    error = expect_error(target.post({"input": target.too_long}), 400)
    expect(
        "maximum context length" in error.message,
        f"the message does not say 'maximum context length': {error.message}",
    )


@cases
def too_long_text_among_others(target: Target) -> None:
    """One text that is too long fails its request."""
    expect_error(target.post({"input": [TEXTS[0], target.too_long, TEXTS[1]]}), 400)


@cases
def too_many_tokens(target: Target) -> None:
    """A request of more than 300 000 tokens is a 400 of its own type."""
    # Each text alone is short enough for a model that reads 256 tokens.
    response = target.post({"input": [" ".join(["word"] * 200)] * 1600})
    expect_error(response, 400, code="max_tokens_per_request")


@cases
def encoding_format_unknown(target: Target) -> None:
    """An encoding_format that does not exist is a 400 that names those that do."""
    error = expect_error(target.post({"input": TEXTS[0], "encoding_format": "md5"}), 400)
    expect("base64" in error.message, f"the message is no help: {error.message}")


@cases
def dimensions_out_of_range(target: Target) -> None:
    """Dimensions that the model cannot give are a 400 that says which field it is."""
    for size in (target.size + 1, 0, -1):
        response = target.post({"input": TEXTS[0], "dimensions": size})
        expect_error(response, 400, param="dimensions")


@cases
def dimensions_of_other_types(target: Target) -> None:
    """Dimensions that are no whole number are a 400."""
    for size in ("8", 8.5, [8]):
        expect_error(target.post({"input": TEXTS[0], "dimensions": size}), 400)


@cases
def malformed_json(target: Target) -> None:
    """A body that is not JSON is a 400."""
    for body in (b"{", b"", b"input=a", b'{"input": "\xff"}', b"[" * 100_000):
        expect_error(target.http.post("/embeddings", content=body, headers=JSON), 400)


@cases
def body_is_no_object(target: Target) -> None:
    """JSON of another kind than an object is a 400."""
    for body in (b"[]", b"null", b'"text"', b"1"):
        expect_error(target.http.post("/embeddings", content=body, headers=JSON), 400)


@cases
def wrong_content_type(target: Target) -> None:
    """A body declared as something else than JSON is refused as such."""
    response = target.http.post(
        "/embeddings", content=b"input=a", headers={"content-type": "text/plain"}
    )
    expect(response.is_client_error, f"status is {response.status_code}")
    expect_error(response, response.status_code)


@cases
def content_type_with_charset(target: Target) -> None:
    """A charset after the content type is no reason to refuse."""
    response = target.http.post(
        "/embeddings",
        content=httpx.Request("POST", "http://_", json=_plain(target)).content,
        headers={"content-type": "Application/JSON; charset=utf-8"},
    )
    expect(response.is_success, f"status is {response.status_code}: {response.text[:200]}")


def _plain(target: Target) -> dict[str, str]:
    return {"model": target.model, "input": TEXTS[0]}


@cases
def unknown_route(target: Target) -> None:
    """A path that is not served is a 404 in the same shape."""
    expect_error(target.http.post("/no-such-route", json=_plain(target)), 404)
    expect_error(target.http.get("/no-such-route"), 404)


@cases
def wrong_method(target: Target) -> None:
    """A path that is served for another method is a 405 in the same shape."""
    expect_error(target.http.get("/embeddings"), 405)
    expect_error(target.http.post("/models", json={}), 405)


@cases
def headers_on_error(target: Target) -> None:
    """An error carries its request's id and the time it took."""
    for response in (target.post({"input": ""}), target.http.get("/no-such-route")):
        expect(response.headers.get("x-request-id", "") != "", "x-request-id is missing")
        expect("openai-processing-ms" in response.headers, "openai-processing-ms is missing")


@cases
def connection_survives_errors(target: Target) -> None:
    """After a refusal the same connection serves the next request."""
    with httpx.Client(
        base_url=target.base_url,
        headers=target.http.headers,
        timeout=target.http.timeout,
        limits=httpx.Limits(max_connections=1),
    ) as client:
        for body in ({"model": target.model, "input": ""}, _plain(target)):
            response = client.post("/embeddings", json=body)
    expect(response.is_success, f"status is {response.status_code}: {response.text[:200]}")
