# SPDX-License-Identifier: Apache-2.0
"""Quotas that replicas share, on a real PostgreSQL whose clock is the tests' own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import psycopg
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from appliance.access import sharing
from appliance.access.grants import TokenRequest
from appliance.access.quotas import Bucket, Kind, Quota
from appliance.access.shared_bucket import SharedBucket
from appliance.access.sharing import Allotted, Exchange, Sharing
from appliance.access.store import TokenStore
from appliance.errors import StoreUnavailable
from appliance.settings import Settings
from tests.postgresql import PostgreSQL, make_postgresql
from tests.unit.test_quotas import Clock

# It hides PostgreSQL's own where statements look in "public" first.
CLOCK = """
CREATE TABLE moment (seconds double precision);
INSERT INTO moment VALUES (1000);
CREATE FUNCTION clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
    AS 'SELECT to_timestamp(seconds) FROM public.moment';
"""


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    server = make_postgresql()
    try:
        server.start()
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(CLOCK)
        yield server
    finally:
        server.remove()


class World:
    """A database of quotas, and what time it is, there and at its replicas."""

    def __init__(self, store: TokenStore, now: psycopg.AsyncConnection) -> None:
        self.clock = Clock()
        self.store = store
        self.asked: list[Exchange] = []
        self.is_away = False
        self._now = now

    async def pass_(self, seconds: float) -> None:
        self.clock.now += seconds
        await self._now.execute("UPDATE moment SET seconds = %s", [self.clock.now])

    async def token(self) -> str:
        """A new token's id."""
        return (await self.store.create(TokenRequest("t")))[0].id

    async def exchange(self, wanted: Exchange) -> Allotted:
        if self.is_away:
            raise StoreUnavailable("away")
        self.asked.append(wanted)
        return await self.store.exchange(wanted)

    def replica(self) -> Sharing:
        return Sharing(self.exchange, self.clock)


@pytest.fixture
async def world(postgresql: PostgreSQL) -> AsyncIterator[World]:
    async with opened(postgresql) as found:
        yield found


class opened:  # noqa: N801  # used as a function
    def __init__(self, postgresql: PostgreSQL) -> None:
        url = f"{postgresql.url}?options=-csearch_path%3Dpublic,pg_catalog"
        self._url = postgresql.url
        self._store = TokenStore(Settings(database_url=SecretStr(url)))

    async def __aenter__(self) -> World:
        await self._store.migrate()
        self._now = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
        world = World(self._store, self._now)
        await world.pass_(0)
        return world

    async def __aexit__(self, *_: object) -> None:
        await self._now.close()
        await self._store.close()


class Step(NamedTuple):
    replica: int
    wait: float
    amount: int
    used: float
    """The part of the amount that turns out to have been used."""
    settles: bool


steps = st.builds(
    Step,
    replica=st.integers(0, 2),
    wait=st.sampled_from([0.0, 0.0, 0.0, 0.1, 1.0, 4.0, 60.0]),
    amount=st.integers(1, 4) | st.integers(1, 130),
    used=st.sampled_from([1.0, 1.0, 0.25, 0.0]),
    settles=st.booleans(),
)


def test_replicas_together_pass_no_more_than_one_bucket(postgresql: PostgreSQL) -> None:
    """Each amount that any replica lets through is there in a bucket that sees them all."""
    with asyncio.Runner() as runner:
        database = opened(postgresql)
        world = runner.run(database.__aenter__())

        @given(limit=st.integers(1, 120), script=st.lists(steps, min_size=15, max_size=30))
        @settings(max_examples=25, phases=[Phase.generate])
        def check(limit: int, script: list[Step]) -> None:
            runner.run(together(world, limit, script))

        try:
            check()
        finally:
            runner.run(database.__aexit__())


async def reported(replica: Sharing) -> None:
    """Wait for what goes on behind the requests."""
    await asyncio.gather(*replica._tasks)


async def together(world: World, limit: int, script: list[Step]) -> None:
    replicas = [world.replica() for _ in range(3)]
    token = await world.token()
    buckets = [SharedBucket(replica, token, "tokens", limit) for replica in replicas]
    whole = Bucket(limit, world.clock)
    for step in script:
        await world.pass_(step.wait)
        bucket = buckets[step.replica]
        if not await bucket.draw(step.amount):
            assert whole.seconds_until(step.amount) < 1e-3, "more than was there"
            whole.take(step.amount)
            back = step.amount - int(step.amount * step.used)
            whole.take(-back)
            bucket.correct(-back)
            await reported(replicas[step.replica])
        assert bucket.level <= limit
        if step.settles:
            await replicas[step.replica].settle()
    for replica in replicas:
        await replica.stop()
        assert not replica.is_away
        assert not replica.unsettled
    last = SharedBucket(world.replica(), token, "tokens", limit)
    await last.draw(10**9)
    assert last.level <= whole.level + 1e-3


async def test_together_they_pass_all_that_there_is(world: World) -> None:
    token = await world.token()
    buckets = [SharedBucket(world.replica(), token, "requests", 30) for _ in range(3)]
    passed = [await buckets[n % 3].draw(1) == 0 for n in range(90)]
    assert sum(passed) == 30
    await world.pass_(2.0)  # in which one more flows in
    assert sum([await bucket.draw(1) == 0 for bucket in buckets]) == 1
    waits = [await bucket.draw(1) for bucket in buckets]
    assert waits == pytest.approx([2.0] * 3)


async def test_what_is_lent_out_is_not_refilled_as_well(world: World) -> None:
    token = await world.token()
    one, two = (SharedBucket(world.replica(), token, "requests", 100) for _ in range(2))
    assert await one.draw(1) == 0
    await world.pass_(4.0)  # in which the bucket is full again, and the allotment still good
    assert one._unused == 5
    passed = [await bucket.draw(1) == 0 for bucket in [two] * 120 + [one] * 20]
    assert sum(passed) == 100


async def test_a_busy_key_seldom_asks_the_database(world: World) -> None:
    replica = world.replica()
    bucket = SharedBucket(replica, await world.token(), "requests", 6000)
    for _ in range(10):
        for _ in range(100):
            assert await bucket.draw(1) == 0
        await world.pass_(1.0)
        await replica.settle()
    assert len(world.asked) <= 20
    assert 5900 <= bucket.level <= 6000
    world.asked.clear()
    await replica.settle()
    await replica.settle()
    assert len(world.asked) == 1, "what lay unused is given back, and nothing is asked any more"
    assert world.asked[0].ahead == 0
    assert bucket.is_idle


async def test_requests_at_once_share_their_questions(world: World) -> None:
    bucket = SharedBucket(world.replica(), await world.token(), "requests", 200)
    waits = await asyncio.gather(*(bucket.draw(1) for _ in range(300)))
    assert waits.count(0.0) == 200
    assert all(wait == pytest.approx(0.3) for wait in waits if wait)
    assert len(world.asked) < 20
    world.asked.clear()
    assert await bucket.draw(1) > 0
    assert not world.asked, "a refusal is remembered for a moment"


async def test_nobody_is_refused_for_what_is_being_given_back(world: World) -> None:
    replica = world.replica()
    bucket = SharedBucket(replica, await world.token(), "tokens", 60)
    assert await bucket.draw(53) == 0
    assert (bucket._unused, bucket.level) == (3, 7)
    settling, drawing = asyncio.create_task(replica.settle()), asyncio.create_task(bucket.draw(7))
    await settling
    assert await drawing == 0


async def test_what_a_killed_replica_held_comes_back(world: World) -> None:
    token = await world.token()
    killed, other = (SharedBucket(world.replica(), token, "requests", 100) for _ in range(2))
    assert await killed.draw(1) == 0
    assert killed._size == 5
    await world.pass_(600)
    assert await other.draw(1) == 0
    await world.pass_(600)
    assert sum([await other.draw(1) == 0 for _ in range(150)]) == 100
    assert await killed.draw(1) > 0, "what it held is no longer good"


async def test_what_a_request_that_left_has_taken_is_put_back(world: World) -> None:
    replica = world.replica()
    bucket = SharedBucket(replica, await world.token(), "tokens", 100)
    left = asyncio.create_task(bucket.draw(60))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    await reported(replica)
    await replica.stop()
    assert await SharedBucket(world.replica(), bucket._token_id, "tokens", 100).draw(100) == 0


async def test_more_than_was_guessed_is_a_debt_to_all(world: World) -> None:
    token = await world.token()
    replicas = [world.replica() for _ in range(2)]
    one, two = (SharedBucket(replica, token, "tokens", 600) for replica in replicas)
    assert await one.draw(100) == 0
    one.correct(600)
    assert Quota(None, one).headers()["x-ratelimit-remaining-tokens"] == "0"
    await reported(replicas[0])
    assert await two.draw(10) == pytest.approx(11)
    assert two.level == pytest.approx(-100)


@pytest.mark.parametrize("kind", ["requests", "tokens"])
async def test_while_the_database_is_away_each_counts_alone(
    world: World, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, sharing.__name__)
    token = await world.token()
    replicas = [world.replica() for _ in range(2)]
    one, two = (SharedBucket(replica, token, kind, 20) for replica in replicas)
    assert [await bucket.draw(1) for bucket in (one, two)] == [0, 0]
    world.is_away = True
    for bucket in (one, two):
        passed = [await bucket.draw(1) == 0 for _ in range(40)]
        assert 16 <= sum(passed) <= 20, "what each knew to be there"
    await replicas[0].settle()
    assert [r.levelname for r in caplog.records] == ["WARNING"] * 2, "once for each process"
    world.is_away = False
    await world.pass_(1.0)
    for replica in replicas:
        await replica.settle()
    assert [r.levelname for r in caplog.records] == ["WARNING"] * 2 + ["INFO"] * 2
    assert one.level < 0, "both have taken what was there"
    assert await one.draw(1) > 0
    await world.pass_(120)
    assert sum([await bucket.draw(1) == 0 for bucket in (one, two) * 20]) == 20


async def test_a_long_absence_leaves_no_long_debt(world: World) -> None:
    replica = world.replica()
    bucket = SharedBucket(replica, await world.token(), "requests", 60)
    world.is_away = True
    for _ in range(600):
        assert await bucket.draw(1) == 0
        await world.pass_(1.0)
    world.is_away = False
    await replica.settle()
    assert bucket.level == pytest.approx(60)


async def test_a_database_whose_clock_was_set_back_refills_again(world: World) -> None:
    bucket = SharedBucket(world.replica(), await world.token(), "requests", 1)
    await world.pass_(100_000)
    assert await bucket.draw(1) == 0
    await world.pass_(-50_000)
    assert await SharedBucket(world.replica(), bucket._token_id, "requests", 1).draw(1) > 0
    await world.pass_(60)
    assert await SharedBucket(world.replica(), bucket._token_id, "requests", 1).draw(1) == 0
