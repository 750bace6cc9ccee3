# SPDX-License-Identifier: Apache-2.0
"""What a route says of itself where the framework cannot know it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, ClassVar

import msgspec
from litestar.openapi.spec import Operation

from appliance.errors import (
    ApplianceError,
    InputTooLong,
    InternalError,
    InvalidRequest,
    MalformedBody,
    ModelNotAllowed,
    ModelNotFound,
    ModelUnavailable,
    Overloaded,
    PayloadTooLarge,
    PermissionDenied,
    RequestsExceeded,
    RequestTimeout,
    RequestTooManyTokens,
    StoreUnavailable,
    TokensExceeded,
    TooManyAttempts,
    Unauthenticated,
    UnknownKey,
    UnsupportedMediaType,
)

__all__ = ["BEARER", "WORK_ERRORS", "DescribedOperation", "Facts", "Refusals", "operation"]

BEARER = "bearer"
"""Name of the security scheme; a route's ``security`` lists the scope that it asks for."""

WORK_ERRORS: tuple[type[ApplianceError], ...] = (
    InputTooLong,
    RequestTooManyTokens,
    ModelNotAllowed,
    ModelNotFound,
    Overloaded,
    RequestsExceeded,
    TokensExceeded,
    ModelUnavailable,
)
"""What any route may answer that has a model work on texts."""

_BODY_ERRORS = (
    InvalidRequest,
    MalformedBody,
    RequestTimeout,
    PayloadTooLarge,
    UnsupportedMediaType,
)
_DOOR_ERRORS = (Unauthenticated, UnknownKey, PermissionDenied, TooManyAttempts, StoreUnavailable)


@dataclass(frozen=True)
class Refusals:
    """How a dialect tells of errors.

    Attributes:
        body: What such an answer consists of.
        headers: Of each, beside those of all.
        status: The status that a class of errors has in it.
        without_body: Statuses whose answers have no body.
    """

    body: type[msgspec.Struct]
    headers: tuple[str, ...] = ()
    status: Callable[[type[ApplianceError]], int] = attrgetter("status")
    without_body: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Facts:
    """What the framework does not know of a route. Fields as in :func:`operation`."""

    body: Any = None
    body_type: str = "application/json"
    example: Mapping[str, Any] | None = None
    answers: Mapping[int, Any] = field(default_factory=dict)
    errors: tuple[type[ApplianceError], ...] = ()
    headers: tuple[str, ...] = ()
    refusals: Refusals | None = None

    def all_errors(self, *, has_query: bool, is_guarded: bool) -> Iterator[type[ApplianceError]]:
        """Every error that the route may answer with.

        Args:
            has_query: Whether it has parameters beside those of its path.
            is_guarded: Whether it asks for a key.
        """
        if self.body is not None:
            yield from _BODY_ERRORS
        if has_query:
            yield InvalidRequest
        if is_guarded:
            yield from _DOOR_ERRORS
        yield from self.errors
        yield InternalError


@dataclass
class DescribedOperation(Operation):
    """An operation with its facts."""

    facts: ClassVar[Facts] = Facts()


def operation(
    *errors: type[ApplianceError],
    body: Any = None,
    body_type: str = "application/json",
    example: Mapping[str, Any] | None = None,
    answers: Mapping[int, Any] | None = None,
    headers: tuple[str, ...] = (),
    refusals: Refusals | None = None,
) -> type[Operation]:
    """Describe a route; for the ``operation_class`` of its handler.

    Args:
        errors: That it answers with, beside those of the door and of reading a body.
        body: What its body is: a Struct, a pydantic model, or another type that msgspec knows.
        body_type: How it is written.
        example: A body, for readers to try.
        answers: What its answers consist of, by status. Where one is missing, the handler's
            annotation holds.
        headers: Of its good answers, beside those of all; see
            :data:`~appliance.openapi.headers.HEADERS`.
        refusals: How its dialect tells of errors. Unset: as OpenAI's API does.
    """
    facts = Facts(body, body_type, example, answers or {}, errors, headers, refusals)
    return type("Described", (DescribedOperation,), {"facts": facts})
