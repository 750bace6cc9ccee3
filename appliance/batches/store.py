# SPDX-License-Identifier: Apache-2.0
"""The rows of files and batches: SQLite in ``data_dir``, or PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy import (
    ColumnElement,
    Row,
    Table,
    delete,
    false,
    insert,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from appliance.access.grants import Grant
from appliance.batches.records import OPEN_STATUSES, Batch, Page, Status, StoredFile
from appliance.batches.schema import batches, files, metadata
from appliance.database import Database, Schema
from appliance.database_file import database_file
from appliance.errors import Conflict
from appliance.settings import Settings

__all__ = ["SCHEMA", "BatchStore"]

SCHEMA = Schema(
    what="files and batches",
    metadata=metadata,
    steps=Path(__file__).parent / "migrations",
    version_table="embeddings_appliance_batches_version",
)

Record = TypeVar("Record", StoredFile, Batch)


class BatchStore:
    """Reads and writes rows. Each method raises :class:`StoreUnavailable` where it cannot.

    Who asks sees what is theirs, and an admin everything.

    Args:
        settings: Of which ``data_dir`` is set, and ``database_url`` may be.
    """

    def __init__(self, settings: Settings) -> None:
        place: Path | str
        if settings.database_url is not None:
            place = settings.database_url.get_secret_value()
        else:
            assert settings.data_dir is not None
            place = database_file(settings.data_dir)
        self._database = Database(place, SCHEMA)

    async def close(self) -> None:
        """Close every connection."""
        await self._database.close()

    async def migrate(self) -> None:
        """Make the tables, or bring them up to date."""
        await self._database.migrate()

    async def add_file(self, file: StoredFile) -> None:
        """Keep a file."""
        async with self._database.writing() as connection:
            await _add(connection, files, file)

    async def add_batch(self, grant: Grant, batch: Batch) -> StoredFile | None:
        """Keep a batch, if its input is there; which is what is returned."""
        async with self._database.writing() as connection:
            found = await _locked_file(connection, batch.input_file_id, _seen(files, grant))
            if found is not None and found.purpose == "batch":
                await _add(connection, batches, batch)
            return found

    async def file(self, grant: Grant, file_id: str) -> StoredFile | None:
        """One file."""
        async with self._database.reading() as connection:
            rows = await connection.execute(
                select(files).where(files.c.id == file_id, _seen(files, grant), _unexpired())
            )
            row = rows.one_or_none()
            return None if row is None else _record(row, StoredFile)

    async def batch(self, grant: Grant, batch_id: str) -> Batch | None:
        """One batch."""
        async with self._database.reading() as connection:
            return await _batch(connection, batch_id, _seen(batches, grant))

    async def list_files(
        self, grant: Grant, page: Page, purpose: str | None
    ) -> tuple[list[StoredFile], bool]:
        """A page of files, and whether there are more."""
        condition = _seen(files, grant) & _unexpired()
        if purpose is not None:
            condition &= files.c.purpose == purpose
        return await self._list(files, condition, page, StoredFile)

    async def list_batches(self, grant: Grant, page: Page) -> tuple[list[Batch], bool]:
        """A page of batches, and whether there are more."""
        return await self._list(batches, _seen(batches, grant), page, Batch)

    async def remove_file(self, grant: Grant, file_id: str) -> bool:
        """Forget a file; ``False`` if there is none.

        Raises:
            Conflict: A batch that has not ended reads it.
        """
        async with self._database.writing() as connection:
            if await _locked_file(connection, file_id, _seen(files, grant)) is None:
                return False
            reader = await connection.scalar(
                select(batches.c.id).where(
                    batches.c.input_file_id == file_id, batches.c.status.in_(OPEN_STATUSES)
                )
            )
            if reader is None:
                await connection.execute(delete(files).where(files.c.id == file_id))
                return True
        raise Conflict(
            f"The file '{file_id}' is the input of the batch '{reader}', which has not ended."
            " Cancel it, or wait for it."
        )

    async def forget_expired(self) -> list[str]:
        """Forget files whose time is over, and say which; not the input of an open batch."""
        in_use = select(batches.c.input_file_id).where(batches.c.status.in_(OPEN_STATUSES))
        condition = files.c.expires_at <= int(time.time()), files.c.id.not_in(in_use)
        async with self._database.writing() as connection:
            rows = await connection.execute(delete(files).where(*condition).returning(files.c.id))
            return list(rows.scalars())

    async def cancel(self, grant: Grant, batch_id: str) -> Batch | None:
        """Ask for a batch to be cancelled; one that has ended, or nearly, stays as it was."""
        cancellable: tuple[Status, ...] = ("validating", "in_progress")
        async with self._database.writing() as connection:
            await connection.execute(
                update(batches)
                .where(
                    batches.c.id == batch_id,
                    batches.c.status.in_(cancellable),
                    batches.c.ending.is_(None),
                    _seen(batches, grant),
                )
                .values(status="cancelling", cancelling_at=int(time.time()))
            )
            return await _batch(connection, batch_id, _seen(batches, grant))

    async def open_batches(self) -> list[Batch]:
        """Those that there is work on, the oldest first."""
        async with self._database.reading() as connection:
            rows = await connection.execute(
                select(batches)
                .where(batches.c.status.in_(OPEN_STATUSES))
                .order_by(batches.c.number)
            )
            return [_record(row, Batch) for row in rows]

    async def claim(self, batch: Batch, holder: str) -> Batch | None:
        """Take a batch on, if nobody has since it was read."""
        unchanged = batches.c.beat == batch.beat, batches.c.status.in_(OPEN_STATUSES)
        return await self._change(
            batch.id, _held_by(batch.holder), *unchanged, values={"holder": holder}
        )

    async def beat(self, batch_id: str, holder: str, /, **values: Any) -> Batch | None:
        """Show that the holder is alive, and write values; ``None`` if another has taken over."""
        return await self._change(batch_id, _held_by(holder), values=values)

    async def advance(
        self, batch_id: str, holder: str, was: Status, /, **values: Any
    ) -> Batch | None:
        """Write values if the status is still the one that it was; what is there now, in any case.

        ``None`` if another has taken over.
        """
        changed = await self._change(
            batch_id, _held_by(holder), batches.c.status == was, values=values
        )
        return changed or await self.beat(batch_id, holder)

    async def end(
        self, batch_id: str, holder: str, results: Sequence[StoredFile], /, **values: Any
    ) -> Batch | None:
        """Write the last of a batch, and its files, at once; ``None`` if another has taken over."""
        async with self._database.writing() as connection:
            values = {**values, "holder": None}
            ended = await _changed(connection, batch_id, (_held_by(holder),), values)
            if ended is not None:
                for file in results:
                    await _add(connection, files, file)
            return ended

    async def _change(
        self, batch_id: str, *conditions: ColumnElement[bool], values: dict[str, Any]
    ) -> Batch | None:
        async with self._database.writing() as connection:
            return await _changed(connection, batch_id, conditions, values)

    async def _list(
        self, table: Table, condition: ColumnElement[bool], page: Page, kind: type[Record]
    ) -> tuple[list[Record], bool]:
        number = table.c.number
        if page.after is not None:
            last = select(number).where(table.c.id == page.after).scalar_subquery()
            condition &= number > last if page.order == "asc" else number < last
        by_age = number.asc() if page.order == "asc" else number.desc()
        wanted = select(table).where(condition).order_by(by_age).limit(page.limit + 1)
        async with self._database.reading() as connection:
            rows = (await connection.execute(wanted)).all()
        return [_record(row, kind) for row in rows[: page.limit]], len(rows) > page.limit


def _seen(table: Table, grant: Grant) -> ColumnElement[bool]:
    """That whoever has a grant may see a row."""
    if grant.allows("admin"):
        return true()
    return false() if grant.id is None else table.c.owner == grant.id


def _unexpired() -> ColumnElement[bool]:
    return or_(files.c.expires_at.is_(None), files.c.expires_at > int(time.time()))


def _held_by(holder: str | None) -> ColumnElement[bool]:
    return batches.c.holder.is_(None) if holder is None else batches.c.holder == holder


async def _add(connection: AsyncConnection, table: Table, record: StoredFile | Batch) -> None:
    values = msgspec.to_builtins(record)
    await connection.execute(insert(table).values(values))


async def _locked_file(
    connection: AsyncConnection, file_id: str, *conditions: ColumnElement[bool]
) -> StoredFile | None:
    """One file, which nobody else changes until the transaction is over."""
    wanted = select(files).where(files.c.id == file_id, _unexpired(), *conditions)
    row = (await connection.execute(wanted.with_for_update())).one_or_none()
    return None if row is None else _record(row, StoredFile)


async def _batch(
    connection: AsyncConnection, batch_id: str, *conditions: ColumnElement[bool]
) -> Batch | None:
    rows = await connection.execute(select(batches).where(batches.c.id == batch_id, *conditions))
    row = rows.one_or_none()
    return None if row is None else _record(row, Batch)


async def _changed(
    connection: AsyncConnection,
    batch_id: str,
    conditions: Sequence[ColumnElement[bool]],
    values: dict[str, Any],
) -> Batch | None:
    rows = await connection.execute(
        update(batches)
        .where(batches.c.id == batch_id, *conditions)
        .values(**values, beat=batches.c.beat + 1)
        .returning(batches)
    )
    row = rows.one_or_none()
    return None if row is None else _record(row, Batch)


def _record(row: Row[Any], kind: type[Record]) -> Record:
    fields = {str(name): value for name, value in row._asdict().items() if name != "number"}
    return msgspec.convert(fields, kind)
