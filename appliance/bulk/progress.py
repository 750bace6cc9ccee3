# SPDX-License-Identifier: Apache-2.0
"""How far it is: a bar on a terminal, else a line of the log now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

__all__ = ["Display", "Meter", "show_progress"]

logger = logging.getLogger(__name__)

LOG_SECONDS = 10.0
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Meter:
    """Counts what one run does.

    Args:
        total: What positions are measured against; ``None`` if nobody knows.
        position: Where the run begins.
        rows: Rows that earlier runs have done.
        clock: Tells seconds.

    Attributes:
        rows: Rows done, those of earlier runs too.
        position: How far into the input they reach.
    """

    def __init__(
        self,
        total: int | None,
        position: int = 0,
        rows: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.total = total
        self.rows = rows
        self.position = position
        self._first_rows = rows
        self._first_position = position
        self._tokens = 0
        self._clock = clock
        self._started = clock()

    def add(self, rows: int, tokens: int, position: int) -> None:
        """Count rows that are done."""
        self.rows += rows
        self._tokens += tokens
        self.position = position

    @property
    def seconds(self) -> float:
        """Time since the run began."""
        return max(self._clock() - self._started, 1e-9)

    @property
    def rates(self) -> str:
        """Rows and tokens a second, of this run alone."""
        rows = (self.rows - self._first_rows) / self.seconds
        return f"{rows:,.0f} rows/s, {self._tokens / self.seconds:,.0f} tokens/s"

    @property
    def summary(self) -> str:
        """What this run did, to end its last line; empty if there was nothing to do."""
        if not self._tokens:
            return ""
        earlier = f"{self._first_rows:,} by earlier runs; " if self._first_rows else ""
        return f"; {earlier}{self._tokens:,} tokens in {self.seconds:,.1f} s: {self.rates}"

    @property
    def share(self) -> float | None:
        """Share of the input that is done, if its size is known."""
        return min(self.position / self.total, 1.0) if self.total else None

    @property
    def seconds_left(self) -> float | None:
        """Time that the rest takes at the pace so far, if that can be told."""
        done = self.position - self._first_position
        if not self.total or done <= 0:
            return None
        return max(self.total - self.position, 0) * self.seconds / done


class Display(Protocol):
    """Shows a meter."""

    def show(self, meter: Meter) -> None:
        """Called whenever the meter has changed."""


@contextmanager
def show_progress(log_level: str) -> Iterator[Display]:
    """Set up the log, and the display that fits standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        _set_up_log(log_level, logging.StreamHandler(), LOG_FORMAT)
        yield _Log()
        return
    _set_up_log(log_level, RichHandler(console=console, show_path=False), "%(message)s")
    progress = Progress(
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=console,
    )
    with progress:
        yield _Bar(progress)


def _set_up_log(level: str, handler: logging.Handler, form: str) -> None:
    logging.basicConfig(level=level.upper(), format=form, handlers=[handler])
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _Bar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("loading the model", total=None)

    def show(self, meter: Meter) -> None:
        self._progress.update(
            self._task,
            total=meter.total,
            completed=meter.position,
            description=f"{meter.rows:,} rows, {meter.rates}",
        )


class _Log:
    def __init__(self) -> None:
        self._next = time.monotonic() + LOG_SECONDS

    def show(self, meter: Meter) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LOG_SECONDS
        share, left = meter.share, meter.seconds_left
        logger.info(
            "%s rows%s, %s%s",
            f"{meter.rows:,}",
            "" if share is None else f" ({share:.0%})",
            meter.rates,
            "" if left is None else f", {timedelta(seconds=round(left))} left",
        )
