# SPDX-License-Identifier: Apache-2.0
"""The rows of files and batches, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from appliance.access.grants import EVERYTHING, Grant
from appliance.batches.records import (
    Batch,
    LineError,
    Page,
    StoredFile,
    new_batch,
    new_file_id,
    result_file_id,
)
from appliance.batches.schema import metadata
from appliance.batches.store import SCHEMA, BatchStore
from appliance.errors import Conflict
from appliance.settings import Settings
from tests.postgresql import PostgreSQL, make_postgresql

ME, YOU = (Grant(name, frozenset({"embed"})) for name in ("tok_me", "tok_you"))


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    server = make_postgresql()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "sqlite":
        return Settings(data_dir=tmp_path)
    server: PostgreSQL = request.getfixturevalue("postgresql")
    server.empty()
    return Settings(database_url=server.url, data_dir=tmp_path)


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[BatchStore]:
    store = BatchStore(settings)
    await store.migrate()
    yield store
    await store.close()


async def add_file(store: BatchStore, grant: Grant = ME, expires_at: int | None = None) -> str:
    file = StoredFile(new_file_id(), grant.id, "a ✓", "batch", 2**40, 1, expires_at)
    await store.add_file(file)
    assert await store.file(grant, file.id) == file or expires_at is not None
    return file.id


async def add_batch(store: BatchStore, grant: Grant = ME) -> Batch:
    batch = new_batch(grant.id, await add_file(store, grant), {"k": "✓"}, 3600)
    assert await store.add_batch(grant, batch) is not None
    return batch


async def test_migrations_make_the_tables_as_they_are_described(store: BatchStore) -> None:
    await store.migrate()

    def differences(connection: Connection) -> list[object]:
        options = {
            "version_table": SCHEMA.version_table,
            "include_name": lambda name, kind, _: kind != "table" or name in metadata.tables,
        }
        return list(
            compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
        )

    async with store._database.reading() as connection:
        assert await connection.run_sync(differences) == []


async def test_a_batch_is_as_it_was_written(store: BatchStore) -> None:
    batch = await add_batch(store)
    assert await store.batch(ME, batch.id) == batch
    held = await store.claim(batch, "holder")
    assert held is not None
    failed = await store.advance(
        batch.id, "holder", "validating", status="failed", errors=[{"code": "c", "message": "m"}]
    )
    assert failed is not None
    assert failed.errors == [LineError("c", "m")]
    assert await store.batch(ME, batch.id) == failed


async def test_who_may_see_what(store: BatchStore) -> None:
    mine, yours = await add_batch(store), await add_batch(store, YOU)
    assert await store.batch(YOU, mine.id) is None
    assert await store.file(YOU, mine.input_file_id) is None
    assert await store.cancel(YOU, mine.id) is None
    assert not await store.remove_file(YOU, mine.input_file_id)
    for grant, seen in ((ME, [mine]), (YOU, [yours]), (EVERYTHING, [yours, mine])):
        assert await store.list_batches(grant, Page()) == (seen, False)
    nobody = Grant(None, frozenset({"embed"}))
    assert await store.list_batches(nobody, Page()) == ([], False)
    assert await store.add_batch(ME, new_batch("tok_me", yours.input_file_id, None, None)) is None


async def test_one_of_many_claims_a_batch(store: BatchStore) -> None:
    batch = await add_batch(store)
    claims = await asyncio.gather(*(store.claim(batch, f"holder {n}") for n in range(10)))
    (held,) = [claim for claim in claims if claim is not None]
    assert held.holder is not None
    assert await store.beat(batch.id, "another") is None
    assert await store.advance(batch.id, "another", "validating", status="failed") is None
    assert await store.end(batch.id, "another", [], status="completed") is None
    beaten = await store.beat(batch.id, held.holder, completed=3)
    assert beaten is not None
    assert (beaten.beat, beaten.completed) == (held.beat + 1, 3)
    assert await store.claim(held, "another") is None, "it has shown a sign of life since"
    assert await store.claim(beaten, "another") is not None
    assert await store.beat(batch.id, held.holder) is None


async def test_what_was_cancelled_meanwhile_is_not_overwritten(store: BatchStore) -> None:
    batch = await add_batch(store)
    await store.claim(batch, "me")
    await store.cancel(ME, batch.id)
    now = await store.advance(batch.id, "me", "validating", status="in_progress")
    assert now is not None
    assert now.status == "cancelling"


async def test_the_end_brings_the_files_at_once(store: BatchStore) -> None:
    batch = await add_batch(store)
    await store.claim(batch, "me")
    file = StoredFile(result_file_id(batch.id, "output"), "tok_me", "o", "batch_output", 1, 1)
    ended = await store.end(batch.id, "me", [file], status="completed", output_file_id=file.id)
    assert ended is not None
    assert ended.holder is None
    assert await store.file(ME, file.id) == file
    assert not await store.open_batches()
    assert await store.claim(ended, "me") is None
    cancelled = await store.cancel(ME, batch.id)
    assert cancelled is not None
    assert cancelled.status == "completed"


async def test_what_is_read_is_neither_removed_nor_forgotten(store: BatchStore) -> None:
    batch = new_batch("tok_me", await add_file(store), None, None)
    await store.add_batch(ME, batch)
    with pytest.raises(Conflict, match=batch.id):
        await store.remove_file(ME, batch.input_file_id)
    over = await add_file(store, expires_at=2)
    assert await store.file(ME, over) is None
    assert await store.forget_expired() == [over]
    await store.claim(batch, "me")
    await store.end(batch.id, "me", [], status="completed")
    assert await store.remove_file(ME, batch.input_file_id)
    assert not await store.remove_file(ME, batch.input_file_id)
