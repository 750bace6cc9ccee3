# SPDX-License-Identifier: Apache-2.0
"""What is told of each request for embeddings to those who keep count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["RequestRecord", "RequestSink"]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request for embeddings, whatever its end.

    Attributes:
        route: Template of the path, such as ``/v1/embeddings``.
        model: Name of the model that it was for; ``None`` where that was not found out.
        status: HTTP status of the answer; 499 where the client left before there was one.
        seconds: From the request's first byte to the answer's last.
        tokens: Tokens that the model saw for it; 0 unless it was answered.
    """

    route: str
    model: str | None
    status: int
    seconds: float
    tokens: int


RequestSink = Callable[[RequestRecord], None]
"""Takes each record. Called on the event loop, once the answer was sent; it must not take long."""
