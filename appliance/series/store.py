# SPDX-License-Identifier: Apache-2.0
"""The points on disk: a table in the instance's SQLite file.

They are the instance's own, so they stay in its ``data_dir`` where tokens are in a PostgreSQL that
several instances share. Of several servers on one ``data_dir``, one keeps its points there. A day
takes a megabyte or so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import delete, or_, select
from sqlalchemy.dialects.sqlite import insert

from appliance.database import Database, Schema
from appliance.database_file import database_file
from appliance.durable import AlreadyLocked, hold_lock
from appliance.errors import StoreUnavailable
from appliance.series.history import FINE_STEP, HOUR, LONGEST_WINDOW, MINUTE, History, Row
from appliance.series.schema import metadata, points

__all__ = ["SCHEMA", "SeriesStore"]

logger = logging.getLogger(__name__)

SCHEMA = Schema(
    what="series",
    metadata=metadata,
    steps=Path(__file__).parent / "migrations",
    version_table="embeddings_appliance_series_version",
)

_KEPT = {FINE_STEP: HOUR, MINUTE: LONGEST_WINDOW}
_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Row)


class SeriesStore:
    """Reads and writes points. Each method raises :class:`StoreUnavailable` where it cannot.

    Args:
        folder: The setting ``data_dir``.

    Attributes:
        database: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.database = Database(database_file(folder), SCHEMA)
        self._lock = database_file(folder).with_name("series.lock")
        self._held = ExitStack()
        self._is_claimed = False

    async def close(self) -> None:
        """Close every connection, and leave the file to others."""
        await self.database.close()
        await asyncio.to_thread(self._held.close)

    async def claim(self) -> bool:
        """Have the points to oneself, once the table is there; whether no other server has."""
        if self._is_claimed:
            return True
        try:
            await asyncio.to_thread(self._held.enter_context, hold_lock(self._lock))
        except AlreadyLocked:
            return False
        except OSError as error:
            logger.error("%s: %s", self._lock, error.strerror)
            raise StoreUnavailable(f"{self._lock} cannot be locked.") from None
        self._is_claimed = True
        return True

    async def migrate(self) -> None:
        """Make the table, or bring it up to date."""
        await self.database.migrate()

    async def read(self, now: float) -> list[tuple[int, int, Row]]:
        """All that is of the last day, as :meth:`History.restore` takes it.

        Args:
            now: Unix seconds.
        """
        async with self.database.reading() as connection:
            found = await connection.execute(
                select(points).where(points.c.begins.between(now - LONGEST_WINDOW, now))
            )
            rows = found.all()
        return await asyncio.to_thread(_decoded, rows)

    async def write(self, history: History, now: float) -> None:
        """Write what has changed, and forget what is too old.

        Args:
            history: The points.
            now: Unix seconds.
        """
        changed = history.take_unwritten()
        if not changed:
            return
        try:
            values = [
                {"step": point.step, "begins": point.begins, "content": _encode(point.row)}
                for point in changed
            ]
            change = insert(points)
            change = change.on_conflict_do_update(
                index_elements=[points.c.step, points.c.begins],
                set_={"content": change.excluded.content},
            )
            async with self.database.writing() as connection:
                await connection.execute(change, values)
                for step, seconds in _KEPT.items():
                    # Of later than now: the clock was set back.
                    is_stale = or_(points.c.begins < now - seconds, points.c.begins > now)
                    await connection.execute(delete(points).where(points.c.step == step, is_stale))
        except BaseException:
            history.give_back(changed)
            raise


def _decoded(rows: Sequence[Any]) -> list[tuple[int, int, Row]]:
    """Leave out what another version has written."""
    decoded = []
    for row in rows:
        try:
            decoded.append((row.step, row.begins, _decoder.decode(row.content)))
        except msgspec.MsgspecError:
            continue
    return decoded
