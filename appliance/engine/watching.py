# SPDX-License-Identifier: Apache-2.0
"""What the engine tells whoever watches it. It knows nothing of what becomes of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from appliance.engine.copies import Tier
from appliance.engine.types import Answer, EmbedOptions

__all__ = ["UNWATCHED", "BatchReport", "LoadReport", "MoveReport", "Watcher"]


@dataclass(frozen=True, slots=True)
class BatchReport:
    """A batch that has ended, well or not.

    Attributes:
        model: The model's name.
        device: The device's name.
        texts: How many it had.
        tokens: Of all texts together.
        started: When a worker took it, by ``time.perf_counter``.
        seconds: From then until its jobs were answered.
        traces: What :meth:`Watcher.trace` gave for the requests that it served.
    """

    model: str
    device: str
    texts: int
    tokens: int
    started: float
    seconds: float
    traces: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class MoveReport:
    """A move of weights that has ended.

    Attributes:
        model: The model's name.
        origin: Where the weights were.
        to: Where they are now; ``origin``, if the move came to nothing.
        bytes: Of the weights.
        started: When it began, by ``time.perf_counter``.
        seconds: What it took.
        error: What went wrong, if anything did.
    """

    model: str
    origin: Tier
    to: Tier
    bytes: int
    started: float
    seconds: float
    error: Exception | None


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A model that was got ready from its own files, or could not be.

    Attributes:
        model: The model's name.
        started: When it began, by ``time.perf_counter``.
        seconds: From then until it took requests, or had failed.
        reason: Why it failed; empty if it did not.
    """

    model: str
    started: float
    seconds: float
    reason: str


class Watcher(Protocol):
    """Told of what happens. None of its methods raises or takes long."""

    def trace(self) -> object | None:
        """What ties a job to the request that is being served; opaque here. On the event loop."""

    def asked(self, model: str) -> None:
        """A request has come for a model, and may be refused yet. On the event loop."""

    def embedded(self, options: EmbedOptions, result: Answer) -> None:
        """The request that is being served has its answer. On the event loop."""

    def batch_done(self, report: BatchReport) -> None:
        """A batch has ended. On a worker's thread."""

    def moved(self, report: MoveReport) -> None:
        """Weights have moved. On any thread."""

    def loaded(self, report: LoadReport) -> None:
        """A model is ready, or has failed to be. On the event loop."""


class _Unwatched:
    def trace(self) -> object | None:
        return None

    def asked(self, model: str) -> None: ...

    def embedded(self, options: EmbedOptions, result: Answer) -> None: ...

    def batch_done(self, report: BatchReport) -> None: ...

    def moved(self, report: MoveReport) -> None: ...

    def loaded(self, report: LoadReport) -> None: ...


UNWATCHED: Watcher = _Unwatched()
"""Nobody watches."""
