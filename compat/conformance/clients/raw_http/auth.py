# SPDX-License-Identifier: Apache-2.0
"""Bearer keys, on a server that wants one."""

from __future__ import annotations

import httpx

from compat.conformance.checks import expect, expect_error
from compat.conformance.registry import Cases, Group
from compat.conformance.samples import TEXTS
from compat.conformance.target import Target

cases = Cases("http", Group.AUTH)

WRONG_KEY = "sk-wrong-0123456789abcdef"


def _ask(target: Target, path: str, authorization: str | None) -> httpx.Response:
    headers = {} if authorization is None else {"authorization": authorization}
    if path == "/models":
        return httpx.get(target.base_url + path, headers=headers)
    body = {"model": target.model, "input": TEXTS[0]}
    return httpx.post(target.base_url + path, json=body, headers=headers)


@cases
def key_missing(target: Target) -> None:
    """Without a key the answer is a 401."""
    for path in ("/embeddings", "/models"):
        expect_error(_ask(target, path, None), 401)


@cases
def key_wrong(target: Target) -> None:
    """With an unknown key the answer is a 401 that does not repeat the key."""
    for path in ("/embeddings", "/models"):
        error = expect_error(_ask(target, path, f"Bearer {WRONG_KEY}"), 401, code="invalid_api_key")
        expect(WRONG_KEY not in error.message, "the message repeats the key")


@cases
def key_in_other_schemes(target: Target) -> None:
    """A key that does not come as a bearer token is a 401."""
    for authorization in (f"Basic {target.api_key}", str(target.api_key), "Bearer"):
        expect_error(_ask(target, "/embeddings", authorization), 401)


@cases
def key_scheme_in_any_case(target: Target) -> None:
    """The word Bearer may be written in any case."""
    response = _ask(target, "/embeddings", f"bearer {target.api_key}")
    expect(response.is_success, f"status is {response.status_code}: {response.text[:200]}")


@cases
def headers_on_unauthenticated(target: Target) -> None:
    """A 401, too, carries its request's id."""
    response = _ask(target, "/embeddings", None)
    expect(response.headers.get("x-request-id", "") != "", "x-request-id is missing")
