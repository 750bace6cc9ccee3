# SPDX-License-Identifier: Apache-2.0
"""The store of tokens, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
import stat
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from appliance.access.grants import Grant, Token, TokenRequest, digest_of
from appliance.access.schema import metadata
from appliance.access.store import TokenStore
from appliance.access.usage import UsageLog, Used
from appliance.database_file import database_file
from appliance.errors import StoreUnavailable
from appliance.settings import Settings
from tests.postgresql import PostgreSQL, make_postgresql


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
        return Settings(data_dir=tmp_path / "made" / "by the store")
    server: PostgreSQL = request.getfixturevalue("postgresql")
    server.empty()
    return Settings(database_url=server.url)


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[TokenStore]:
    store = TokenStore(settings)
    await store.migrate()
    yield store
    await store.close()


async def test_a_token_is_found_by_its_secret_with_all_that_was_asked_for(
    store: TokenStore,
) -> None:
    expiry = datetime.now(UTC) + timedelta(days=1)
    wanted = TokenRequest("ci ✓", ["embed", "admin"], ["b", "a", "b"], expiry, 5, 2**53 - 1)
    token, secret = await store.create(wanted)
    assert token == Token(
        id=token.id,
        name="ci ✓",
        prefix=secret[:12],
        state="active",
        scopes=["admin", "embed"],
        models=["b", "a"],
        expires_at=expiry,
        requests_per_minute=5,
        tokens_per_minute=2**53 - 1,
        created_at=token.created_at,
        last_used_at=None,
        revoked_at=None,
        requests=0,
        tokens=0,
    )
    assert await store.grant(digest_of(secret)) == Grant(
        token.id, frozenset({"admin", "embed"}), frozenset({"a", "b"}), expiry, 5, 2**53 - 1
    )
    assert await store.list_all() == [token]
    assert await store.token(token.id) == token
    assert await store.grant(digest_of("other")) is None
    assert await store.token("other") is None


async def test_a_revoked_token_is_listed_and_opens_nothing(store: TokenStore) -> None:
    token, secret = await store.create(TokenRequest("a"))
    revoked = await store.revoke(token.id)
    assert revoked is not None
    assert revoked.state == "revoked"
    assert await store.grant(digest_of(secret)) is None
    assert await store.revoke(token.id) == revoked, "the first moment stays"
    assert await store.revoke("other") is None


async def test_an_expired_token_says_so(store: TokenStore) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    token, secret = await store.create(TokenRequest("a", expires_at=past))
    assert token.state == "expired"
    assert await store.grant(digest_of(secret)) is None


async def test_secrets_are_nowhere_in_the_database(store: TokenStore, settings: Settings) -> None:
    token, secret = await store.create(TokenRequest("a"))
    async with store.database.engine.connect() as connection:
        rows = (await connection.execute(text("SELECT * FROM tokens"))).mappings().all()
    assert rows[0]["id"] == token.id
    assert secret[len(token.prefix) :] not in repr(rows)
    if settings.data_dir is not None:
        files = list(settings.data_dir.iterdir())
        assert files
        for file in files:
            assert secret.encode() not in file.read_bytes()
            assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_tokens_outlive_the_process(store: TokenStore, settings: Settings) -> None:
    token, _ = await store.create(TokenRequest("a"))
    await store.close()
    again = TokenStore(settings)
    await again.migrate()
    assert await again.list_all() == [token]
    await again.close()


async def test_several_processes_start_at_once_and_make_one_first_token(
    settings: Settings,
) -> None:
    stores = [TokenStore(settings) for _ in range(4)]
    await asyncio.gather(*(store.migrate() for store in stores))
    secrets = await asyncio.gather(*(store.create_first() for store in stores))
    (secret,) = [secret for secret in secrets if secret]
    grant = await stores[0].grant(digest_of(secret))
    assert grant is not None
    assert grant.allows("admin")
    for store in stores:
        await store.close()


async def test_a_first_token_is_made_again_once_none_is_good(store: TokenStore) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    await store.create(TokenRequest("expired", expires_at=past))
    assert await store.create_first()
    assert await store.create_first() is None
    for token in await store.list_all():
        await store.revoke(token.id)
    assert await store.create_first()


async def test_the_migrations_make_the_tables_that_the_code_expects(store: TokenStore) -> None:
    def difference(connection: Connection) -> list[object]:
        options = {"version_table": "embeddings_appliance_version", "compare_type": False}
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, metadata))

    async with store.database.engine.connect() as connection:
        assert await connection.run_sync(difference) == []


async def test_use_is_added_up(store: TokenStore) -> None:
    one, _ = await store.create(TokenRequest("a"))
    two, _ = await store.create(TokenRequest("b"))
    log = UsageLog(store.record)
    for _ in range(3):
        log.add(one.id, requests=1, tokens=10)
    log.add(two.id, requests=1)
    log.add("gone", requests=1)
    await log.write()
    log.add(one.id, tokens=5)
    await log.write()
    await log.write()
    listed = await store.list_all()
    assert [(token.requests, token.tokens) for token in listed] == [(3, 35), (1, 0)]
    for token in listed:
        assert token.last_used_at is not None
        assert abs(token.last_used_at - datetime.now(UTC)) < timedelta(minutes=1)


async def test_use_that_cannot_be_written_is_kept_for_the_next_time() -> None:
    written: list[tuple[str, int, int]] = []
    is_gone = True

    async def write(used: dict[str, Used]) -> None:
        if is_gone:
            log.add("a", requests=1)  # meanwhile
            raise StoreUnavailable("gone")
        written.extend((id_, use.requests, use.tokens) for id_, use in used.items())

    log = UsageLog(write)  # type: ignore[arg-type]
    log.add("a", requests=2, tokens=7)
    with pytest.raises(StoreUnavailable):
        await log.write()
    is_gone = False
    await log.write()
    assert written == [("a", 3, 7)]


async def test_a_database_that_does_not_answer_is_told_of_without_its_password(
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = "postgresql://tester:planted-password@127.0.0.1:1/none"
    store = TokenStore(Settings(database_url=url))
    with caplog.at_level(logging.DEBUG), pytest.raises(StoreUnavailable) as told:
        await store.migrate()
    assert "the database of tokens" in caplog.text
    assert "planted-password" not in caplog.text + told.value.message
    await store.close()


async def test_on_a_full_disk_no_token_is_made_and_those_that_were_stay(tmp_path: Path) -> None:
    store = TokenStore(Settings(data_dir=tmp_path))
    await store.migrate()
    async with store.database.engine.begin() as connection:  # the one connection that the pool has
        await connection.execute(text("PRAGMA max_page_count=12"))
    made = []

    async def fill() -> None:
        while len(made) < 1000:
            made.append(await store.create(TokenRequest("a" * 200)))

    with pytest.raises(StoreUnavailable):
        await fill()
    assert made
    assert await store.list_all() == [token for token, _ in made]
    for _, secret in made:
        assert await store.grant(digest_of(secret)) is not None
    await store.close()


async def test_a_folder_that_cannot_be_made_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "folder"
    store = TokenStore(Settings(data_dir=folder))
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await store.migrate()
    assert len(caplog.records) == 1, "the same fault fills the log"
    assert str(database_file(folder).parent) in caplog.text
    await store.close()
