# SPDX-License-Identifier: Apache-2.0
"""What cases expect, and how they say that it is not so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "STEP_TOLERANCE",
    "ErrorBody",
    "Mismatch",
    "NotOffered",
    "Vectors",
    "expect",
    "expect_equal",
    "expect_error",
    "expect_raises",
    "expect_raises_async",
    "expect_same",
    "expect_scores",
    "expect_steps",
    "expect_unit_length",
    "read_json",
    "vectors_of",
]

Vectors = NDArray[np.float64]

Raised = TypeVar("Raised", bound=Exception)

NORM_TOLERANCE = 1e-3

SCORE_TOLERANCE = 1e-3

STEP_TOLERANCE = 1
"""Steps that a small number may be off when its text is embedded again, in other company."""

ANY = object()


class Mismatch(AssertionError):
    """The server answered otherwise than the client expects."""


class NotOffered(Exception):
    """The server does not have the extension that the case is about."""


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The ``error`` object of OpenAI's errors."""

    message: str
    type: str
    param: str | None
    code: str | None


def expect(condition: bool, otherwise: str) -> None:
    """Fail the case with the given words unless a condition holds.

    Raises:
        Mismatch: It does not.
    """
    if not condition:
        raise Mismatch(otherwise)


def expect_equal(what: str, actual: object, wanted: object) -> None:
    """Fail the case unless two things are equal.

    Raises:
        Mismatch: They are not.
    """
    expect(actual == wanted, f"{what} is {actual!r}, not {wanted!r}")


def expect_same(
    actual: ArrayLike, wanted: ArrayLike, least_cosine: float, what: str = "vector"
) -> None:
    """Fail the case unless each vector is its counterpart, save for rounding.

    Raises:
        Mismatch: Shapes, directions or lengths differ.
    """
    here, there = (np.atleast_2d(np.asarray(side, np.float64)) for side in (actual, wanted))
    expect_equal(f"shape of {what}", here.shape, there.shape)
    here_norms, there_norms = (np.linalg.norm(side, axis=1) for side in (here, there))
    expect(bool(here_norms.all() and there_norms.all()), f"{what} is zero")
    cosines = (here * there).sum(axis=1) / (here_norms * there_norms)
    worst = int(cosines.argmin())
    expect(
        bool(cosines[worst] >= least_cosine),
        f"{what} {worst} has cosine {cosines[worst]:.7f} with the expected one",
    )
    expect(
        bool(np.allclose(here_norms, there_norms, rtol=NORM_TOLERANCE, atol=0)),
        f"{what} has the right direction, but another length",
    )


def expect_scores(actual: Sequence[float], wanted: Sequence[float]) -> None:
    """Fail the case unless scores are those that are wanted, save for rounding.

    Raises:
        Mismatch: They are not.
    """
    expect_equal("number of scores", len(actual), len(wanted))
    off = float(np.abs(np.subtract(actual, wanted)).max())
    expect(off <= SCORE_TOLERANCE, f"a score is off by {off:.5f}")


def expect_steps(actual: Vectors, wanted: Vectors, what: str) -> None:
    """Fail the case unless small numbers are those that are wanted, save for rounding.

    Raises:
        Mismatch: They are not.
    """
    expect_equal(f"shape of {what}", actual.shape, wanted.shape)
    off = int(np.abs(actual - wanted).max())
    expect(off <= STEP_TOLERANCE, f"{what} is off by {off}")


def expect_unit_length(vectors: ArrayLike) -> None:
    """Fail the case unless every vector has length 1.

    Raises:
        Mismatch: One has not.
    """
    norms = np.linalg.norm(np.atleast_2d(np.asarray(vectors, np.float64)), axis=1)
    worst = float(norms[np.abs(norms - 1).argmax()])
    expect(abs(worst - 1) < NORM_TOLERANCE, f"a vector has length {worst:.5f}")


def expect_error(
    response: httpx.Response, status: int, *, code: object = ANY, param: object = ANY
) -> ErrorBody:
    """Fail the case unless an answer is an error in OpenAI's shape.

    Args:
        response: The answer.
        status: Its HTTP status.
        code: Its ``error.code``, if it matters.
        param: Its ``error.param``, if it matters.

    Raises:
        Mismatch: It is something else.
    """
    expect_equal("status", response.status_code, status)
    content = read_json(response)
    error = content.get("error") if isinstance(content, dict) else None
    if not isinstance(error, dict):
        raise Mismatch(f"the body has no 'error' object: {response.text[:200]}")
    missing = {"message", "type", "param", "code"} - error.keys()
    expect(not missing, f"the error lacks {', '.join(sorted(missing))}")
    for name in ("message", "type"):
        expect(isinstance(error[name], str) and error[name] != "", f"error.{name} is no text")
    if code is not ANY:
        expect_equal("error.code", error["code"], code)
    if param is not ANY:
        expect_equal("error.param", error["param"], param)
    return ErrorBody(error["message"], error["type"], error["param"], error["code"])


def expect_raises(kind: type[Raised], call: Callable[[], object]) -> Raised:
    """Fail the case unless a call raises.

    Raises:
        Mismatch: It returns.
    """
    try:
        call()
    except kind as error:
        return error
    raise Mismatch(f"no {kind.__name__} was raised")


async def expect_raises_async(kind: type[Raised], call: Awaitable[object]) -> Raised:
    """Fail the case unless awaiting raises.

    Raises:
        Mismatch: It returns.
    """
    try:
        await call
    except kind as error:
        return error
    raise Mismatch(f"no {kind.__name__} was raised")


def read_json(response: httpx.Response) -> Any:
    """Read an answer's body.

    Raises:
        Mismatch: It is not JSON, or not declared to be.
    """
    declared = response.headers.get("content-type", "").partition(";")[0]
    expect_equal("content-type", declared, "application/json")
    try:
        return response.json()
    except ValueError:
        raise Mismatch(f"the body is not JSON: {response.text[:200]!r}") from None


def vectors_of(data: Sequence[Any]) -> Vectors:
    """Take the vectors out of ``data``, whose items are dictionaries or objects.

    Raises:
        Mismatch: The items are not in order.
    """
    items = [item if isinstance(item, dict) else vars(item) for item in data]
    expect_equal("indices", [item["index"] for item in items], list(range(len(items))))
    return np.array([item["embedding"] for item in items], np.float64)
