# SPDX-License-Identifier: Apache-2.0
"""The log: lines of text or of JSON on standard error, and its end in memory for ``/api/logs``.

Every line that is written within a request carries the request's id and, where the request is
traced, the ids of the trace and the span. At ``info`` stands what an operator wants: starts and
stops, loads and moves, faults. At ``debug`` there is a line for each request as well, except for
those by which others watch the instance.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from contextvars import ContextVar
from typing import Literal

import msgspec
from opentelemetry import trace
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from appliance.settings import Settings

__all__ = [
    "CONSOLE_ONLY",
    "LEVELS",
    "Level",
    "LogEntry",
    "LogTail",
    "configure_logging",
    "current_request_id",
]

Level = Literal["debug", "info", "warning", "error"]

LEVELS: dict[Level, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

CONSOLE_ONLY = "console_only"
"""Key of ``extra`` for a record that holds a secret which is shown once: no tail keeps it."""

MOST_ENTRIES = 5000
MOST_BYTES = 4_000_000
MOST_MESSAGE_CHARACTERS = 8000

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s%(traced)s"

_TALKATIVE = {
    "aiosqlite": logging.INFO,  # it debugs with every value in clear
    "alembic": logging.WARNING,
    "asyncio": logging.INFO,
    "filelock": logging.INFO,
    "httpcore": logging.WARNING,
    "httpx": logging.WARNING,
    "urllib3": logging.INFO,
}
"""Libraries that say at a level what nobody asks for at that level."""

current_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the request that is being answered."""


class LogEntry(msgspec.Struct, frozen=True):
    """One line of the log.

    Attributes:
        id: Counts the entries of this process, from 1 on.
        time: In Unix seconds.
        level: How bad it is.
        logger: Who wrote it.
        message: With the traceback, if there is one.
        trace_id: Of the trace that it was written in, as 32 hexadecimal digits.
    """

    id: int
    time: float
    level: Level
    logger: str
    message: str
    trace_id: str | None


class LogTail(logging.Handler):
    """The last entries of the log. Its memory is bounded, whatever is logged.

    Args:
        most_entries: Entries that are kept.
        most_bytes: Most that their messages take, by a rough count.
    """

    def __init__(self, most_entries: int = MOST_ENTRIES, most_bytes: int = MOST_BYTES) -> None:
        super().__init__()
        self.addFilter(_add_context)
        self.setFormatter(logging.Formatter("%(message)s"))
        self._entries: deque[LogEntry] = deque()
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._bytes = 0
        self._newest = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record; called by ``logging``, with its lock held."""
        if getattr(record, CONSOLE_ONLY, False):
            return
        try:
            message = self.format(record)[:MOST_MESSAGE_CHARACTERS]
        except Exception:  # a message and its arguments that do not fit
            self.handleError(record)
            return
        self._newest += 1
        entry = LogEntry(
            self._newest,
            round(record.created, 6),
            _level_of(record),
            record.name,
            message,
            getattr(record, "trace_id", None),
        )
        self._entries.append(entry)
        self._bytes += _size(entry)
        while len(self._entries) > self._most_entries or self._bytes > self._most_bytes:
            self._bytes -= _size(self._entries.popleft())

    def read(self, cursor: int | None = None) -> tuple[list[LogEntry], int, int]:
        """Entries after a cursor, oldest first.

        Args:
            cursor: Id of the last entry that is known. Unset: none is.

        Returns:
            The entries; how many were dropped between the cursor and the first of them; and the
            id of the newest entry.
        """
        self.acquire()
        try:
            entries, newest = list(self._entries), self._newest
        finally:
            self.release()
        if cursor is None or cursor > newest:  # of an earlier start
            return entries, 0, newest
        oldest = newest - len(entries) + 1
        return entries[max(0, cursor + 1 - oldest) :], max(0, oldest - 1 - cursor), newest


def configure_logging(settings: Settings) -> LogTail:
    """Have the process log as its settings say.

    Returns:
        The log's end, which is kept from now on.
    """
    console = logging.StreamHandler()
    console.addFilter(_add_context)
    if settings.debug:
        console.addFilter(_add_cause)
    console.setFormatter(_json() if settings.log_json else logging.Formatter(TEXT))
    tail = LogTail()
    logging.basicConfig(
        level=logging.DEBUG if settings.debug else LEVELS[settings.log_level],
        handlers=[console, tail],
        force=True,
    )
    for name, level in _TALKATIVE.items():
        logging.getLogger(name).setLevel(level)
    return tail


def _json() -> logging.Formatter:
    """One object a line."""
    return JsonFormatter(
        ["level", "name", "message", "trace_id", "span_id", "request_id"],
        rename_fields={"name": "logger", "exc_info": "exception"},
        timestamp="time",
        reserved_attrs=[*RESERVED_ATTRS, "color_message", "traced", CONSOLE_ONLY],
        json_ensure_ascii=False,
    )


def _add_context(record: logging.LogRecord) -> bool:
    """A filter that says what a record was written in."""
    context = trace.get_current_span().get_span_context()
    trace_id = f"{context.trace_id:032x}" if context.is_valid else None
    record.level = _level_of(record)
    record.request_id = current_request_id.get()
    record.trace_id = trace_id
    record.span_id = f"{context.span_id:016x}" if context.is_valid else None
    record.traced = f" [trace {trace_id}]" if trace_id else ""
    return True


def _add_cause(record: logging.LogRecord) -> bool:
    """A filter that adds the traceback of the error in whose handling a warning was written."""
    if record.levelno >= logging.WARNING and not record.exc_info and sys.exc_info()[0] is not None:
        record.exc_info = sys.exc_info()
    return True


def _level_of(record: logging.LogRecord) -> Level:
    reached = (name for name in reversed(LEVELS) if record.levelno >= LEVELS[name])
    return next(reached, "debug")


def _size(entry: LogEntry) -> int:
    return len(entry.message) + 200
