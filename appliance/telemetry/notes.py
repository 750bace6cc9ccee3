# SPDX-License-Identifier: Apache-2.0
"""What is noted of a request on its way through the server, by whoever comes to know it."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from appliance.engine.types import Answer, EmbedOptions, Timings
from appliance.errors import (
    ApplianceError,
    Overloaded,
    RequestsExceeded,
    StoreUnavailable,
    TokensExceeded,
    TooManyAttempts,
)

__all__ = [
    "OTHER",
    "REFUSALS",
    "HttpExchange",
    "RequestNotes",
    "current_notes",
    "note_encoding",
    "note_error",
    "note_inputs",
    "note_whole",
    "refusal",
]


OTHER = "_OTHER"
"""What stands for values that are not told apart, as in the semantic conventions."""


@dataclass(slots=True)
class RequestNotes:
    """One HTTP request. Belongs to its own task on the event loop.

    Attributes:
        started: When it came, by ``time.perf_counter``.
        model: The served name of the model that it is for, once that was found.
        asked: When the engine was asked for them, likewise.
        options: What it asks for.
        result: Its vectors or what else it asked for, once they are there.
        encoding: How they are written: ``float`` or ``base64``.
        inputs: How many it has, once somebody has looked at them.
        is_single: Whether they are one that is no list.
        error: Why it was refused or failed, if it was or did.
        trace: What ties its batches to it, while it is traced.
    """

    started: float = field(default_factory=time.perf_counter)
    model: str | None = None
    asked: float = 0.0
    options: EmbedOptions | None = None
    result: Answer | None = None
    encoding: str = ""
    inputs: int | None = None
    is_single: bool = False
    error: BaseException | None = None
    trace: object | None = None

    def ask(self, model: str) -> None:
        """Note that the engine is asked for something of a model."""
        self.model = model
        self.asked = time.perf_counter()


@dataclass(frozen=True, slots=True)
class HttpExchange:
    """A request and its answer, in the terms of the semantic conventions.

    Attributes:
        method: One that is known, or :data:`OTHER`.
        scheme: ``http`` or ``https``.
        route: Template of the path; ``None`` if it matched none.
        status: Of the answer; 499 where the client left before there was one.
        seconds: Until the answer's last byte.
        request_bytes: Of the request's body, if they were announced.
        response_bytes: Of the answer's body.
    """

    method: str
    scheme: str
    route: str | None
    status: int
    seconds: float
    request_bytes: int | None
    response_bytes: int

    @property
    def attributes(self) -> dict[str, str | int]:
        """What spans and metrics have in common."""
        attributes: dict[str, str | int] = {
            "http.request.method": self.method,
            "url.scheme": self.scheme,
            "http.response.status_code": self.status,
        }
        if self.route is not None:
            attributes["http.route"] = self.route
        if self.status >= 500:
            attributes["error.type"] = str(self.status)
        return attributes


current_notes: ContextVar[RequestNotes | None] = ContextVar("current_notes", default=None)
"""Those of the request that is being served."""


def note_error(error: BaseException) -> None:
    """Note what the request that is being served is answered with."""
    if (notes := current_notes.get()) is not None:
        notes.error = error


def note_inputs(count: int, *, single: bool) -> None:
    """Note how many inputs the request that is being served has."""
    if (notes := current_notes.get()) is not None:
        notes.inputs, notes.is_single = count, single


def note_encoding(encoding: str) -> None:
    """Note how the vectors of the request that is being served are written."""
    if (notes := current_notes.get()) is not None:
        notes.encoding = encoding


def note_whole(tokens: int, timings: Timings) -> None:
    """Note what a request took for which the engine was asked in parts, of which it knows the last.

    Args:
        tokens: Of all parts.
        timings: Of all parts.
    """
    notes = current_notes.get()
    if notes is not None and notes.result is not None and notes.result.timings is not timings:
        notes.result = replace(notes.result, tokens=tokens, timings=timings)


_BY_ERROR: tuple[tuple[type[ApplianceError], str], ...] = (
    (RequestsExceeded, "request_quota"),
    (TokensExceeded, "token_quota"),
    (TooManyAttempts, "bad_keys"),
    (StoreUnavailable, "token_store"),
)

REFUSALS = (
    *(
        "too_many_requests",
        "queue_full",
        "would_wait_too_long",
        "waited_too_long",
    ),  # Overloaded.bound
    *(reason for _, reason in _BY_ERROR),
)
"""The bounds that requests are refused for."""


def refusal(error: BaseException | None) -> str:
    """Which bound a request was refused for; empty if it was not."""
    if isinstance(error, Overloaded):
        return error.bound
    return next((reason for kind, reason in _BY_ERROR if isinstance(error, kind)), "")
