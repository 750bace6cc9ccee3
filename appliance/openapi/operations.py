# SPDX-License-Identifier: Apache-2.0
"""What a route says of itself where the framework cannot know it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from litestar.openapi.spec import Operation

from appliance.errors import (
    ApplianceError,
    InternalError,
    InvalidRequest,
    PayloadTooLarge,
    PermissionDenied,
    RequestTimeout,
    StoreUnavailable,
    TooManyAttempts,
    Unauthenticated,
    UnknownKey,
    UnsupportedMediaType,
)

__all__ = ["BEARER", "DescribedOperation", "Facts", "operation"]

BEARER = "bearer"
"""Name of the security scheme; a route's ``security`` lists the scope that it asks for."""

_BODY_ERRORS = (InvalidRequest, RequestTimeout, PayloadTooLarge, UnsupportedMediaType)
_DOOR_ERRORS = (Unauthenticated, UnknownKey, PermissionDenied, TooManyAttempts, StoreUnavailable)


@dataclass(frozen=True)
class Facts:
    """What the framework does not know of a route. Fields as in :func:`operation`."""

    body: Any = None
    example: Mapping[str, Any] | None = None
    answers: Mapping[int, Any] = field(default_factory=dict)
    errors: tuple[type[ApplianceError], ...] = ()
    headers: tuple[str, ...] = ()

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
    example: Mapping[str, Any] | None = None,
    answers: Mapping[int, Any] | None = None,
    headers: tuple[str, ...] = (),
) -> type[Operation]:
    """Describe a route; for the ``operation_class`` of its handler.

    Args:
        errors: That it answers with, beside those of the door and of reading a body.
        body: What its body is: a Struct, a pydantic model, or another type that msgspec knows.
        example: A body, for readers to try.
        answers: What its answers consist of, by status. Where one is missing, the handler's
            annotation holds.
        headers: Of its good answers, beside those of all; see
            :data:`~appliance.openapi.headers.HEADERS`.
    """
    facts = Facts(body, example, answers or {}, errors, headers)
    return type("Described", (DescribedOperation,), {"facts": facts})
