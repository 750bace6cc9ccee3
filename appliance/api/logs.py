# SPDX-License-Identifier: Apache-2.0
"""The end of the log."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from appliance.api.queries import refuse_unknown
from appliance.logs import LEVELS, MOST_ENTRIES, Level, LogEntry, LogTail

__all__ = ["LogsController"]


class LogAnswer(msgspec.Struct):
    """Answer of ``GET /api/logs``.

    Attributes:
        cursor: What to ask with next, for what has come since.
        missed: Entries after the cursor that was asked with which are there no more.
        entries: The oldest first.
    """

    cursor: int
    missed: int
    entries: list[LogEntry]


class LogsController(Controller):
    """What the process has logged of late; kept in memory only."""

    tags = ("Status",)

    @get("/api/logs", sync_to_thread=False)
    def logs(
        self,
        request: Request[Any, Any, Any],
        tail: NamedDependency[LogTail],
        cursor: Annotated[
            int | None,
            QueryParameter(
                ge=0,
                description="As the last answer has it. Unset: the newest ones.",
                schema_extra={"minimum": 0},
            ),
        ] = None,
        level: Annotated[
            Level, QueryParameter(description="Entries of this level and worse.")
        ] = "debug",
        search: Annotated[
            str,
            QueryParameter(max_length=200, description="Part of the message or of the logger."),
        ] = "",
        limit: Annotated[
            int, QueryParameter(ge=1, le=MOST_ENTRIES, description="Most entries.")
        ] = 500,
    ) -> Response[LogAnswer]:
        """Entries after a cursor, or the last ones; asking writes none."""
        refuse_unknown(request, "cursor", "level", "search", "limit")
        entries, missed, newest = tail.read(cursor)
        found = [entry for entry in entries if _matches(entry, level, search.casefold())]
        if cursor is None:
            found = found[-limit:]
        elif len(found) > limit:
            found = found[:limit]
            newest = found[-1].id
        return Response(LogAnswer(newest, missed, found))


def _matches(entry: LogEntry, level: Level, search: str) -> bool:
    if LEVELS[entry.level] < LEVELS[level]:
        return False
    return search in entry.message.casefold() or search in entry.logger.casefold()
