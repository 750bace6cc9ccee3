# SPDX-License-Identifier: Apache-2.0
"""Which keys are good, and for how long that is believed."""

from __future__ import annotations

import asyncio
import inspect
from datetime import UTC, datetime, timedelta

import pytest

from appliance.access import attempts, keyring
from appliance.access.attempts import MOST_FAILURES, FailedTries
from appliance.access.grants import EVERYTHING, Grant, digest_of
from appliance.access.keyring import GRACE_SECONDS, STALE_SECONDS, Keyring
from appliance.errors import StoreUnavailable, TooManyAttempts
from tests.unit.test_quotas import Clock

EMBED = Grant("tok_1", frozenset({"embed"}))


class Store:
    """Answers what a test says, and counts the questions."""

    def __init__(self, grant: Grant | None = EMBED) -> None:
        self.grant = grant
        self.asked = 0
        self.is_gone = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def find(self, digest: str) -> Grant | None:
        self.asked += 1
        grant = self.grant
        await self.gate.wait()
        if self.is_gone:
            raise StoreUnavailable("gone")
        return grant


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_keys_of_the_settings_open_everything_and_ask_no_store() -> None:
    store = Store()
    keys = Keyring(["one", "two"], store.find)
    keys.add("three")
    for key in ("one", "two", "three"):
        assert await keys.grant(digest_of(key)) is EVERYTHING
    assert not store.asked
    assert await Keyring(["one"], None).grant(digest_of("two")) is None


async def test_every_digest_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr(
        keyring.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b
    )
    keys = Keyring(["one", "two", "three"], None)
    assert await keys.grant(digest_of("one")) is EVERYTHING
    assert len(compared) == 3, "the time taken tells which key it was"
    assert " == " not in inspect.getsource(Keyring.grant)


async def test_a_known_token_waits_for_no_store_and_is_asked_about_behind_its_back() -> None:
    clock, store = Clock(), Store()
    keys = Keyring([], store.find, clock)
    digest = digest_of("k")
    assert await keys.grant(digest) == EMBED
    store.gate.clear()  # from here on, who waits for the store waits for ever
    for _ in range(5):
        clock.now += 0.2
        assert await keys.grant(digest) == EMBED
    assert store.asked == 1
    clock.now += 1
    assert await keys.grant(digest) == EMBED
    await settle()
    assert store.asked == 2
    store.gate.set()
    await settle()


async def test_a_revocation_elsewhere_holds_within_five_seconds() -> None:
    clock, store = Clock(), Store()
    keys = Keyring([], store.find, clock)
    digest = digest_of("k")
    assert await keys.grant(digest) == EMBED
    store.grant = None
    clock.now += STALE_SECONDS
    assert STALE_SECONDS < 5
    assert await keys.grant(digest) is None


async def test_a_revocation_here_holds_at_once() -> None:
    store = Store()
    keys = Keyring([], store.find)
    assert await keys.grant(digest_of("k")) == EMBED
    store.grant = None
    keys.forget("tok_1")
    assert await keys.grant(digest_of("k")) is None


async def test_an_expired_token_is_no_longer_good_though_it_is_known() -> None:
    moment = datetime.now(UTC) + timedelta(seconds=0.2)
    keys = Keyring([], Store(Grant("t", frozenset({"embed"}), expires_at=moment)).find)
    assert await keys.grant(digest_of("k")) is not None
    await asyncio.sleep(0.25)
    assert await keys.grant(digest_of("k")) is None


async def test_many_requests_ask_once_and_one_that_leaves_does_not_end_it() -> None:
    store = Store()
    store.gate.clear()
    keys = Keyring([], store.find)
    waiting = [asyncio.create_task(keys.grant(digest_of("k"))) for _ in range(50)]
    await settle()
    waiting[0].cancel()
    await settle()
    store.gate.set()
    assert await asyncio.gather(*waiting[1:]) == [EMBED] * 49
    assert store.asked == 1


async def test_while_the_store_is_gone_known_tokens_stay_good_for_a_while() -> None:
    clock, store = Clock(), Store()
    keys = Keyring([], store.find, clock)
    assert await keys.grant(digest_of("k")) == EMBED
    store.is_gone = True
    with pytest.raises(StoreUnavailable):
        await keys.grant(digest_of("other"))
    while clock.now < 1000 + GRACE_SECONDS - STALE_SECONDS:
        clock.now += STALE_SECONDS
        assert await keys.grant(digest_of("k")) == EMBED
    clock.now += 2 * STALE_SECONDS
    with pytest.raises(StoreUnavailable):
        await keys.grant(digest_of("k"))
    store.is_gone = False
    assert await keys.grant(digest_of("k")) == EMBED


async def test_unknown_keys_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "MOST_KNOWN", 10)
    keys = Keyring([], Store(None).find)
    for number in range(100):
        assert await keys.grant(digest_of(str(number))) is None
    assert len(keys._known) == 10
    assert not keys._asking


def fail(tries: FailedTries, address: str, times: int = MOST_FAILURES) -> None:
    for number in range(times):
        tries.check(address, f"bad {number}")
        tries.failed(address, f"bad {number}")


def test_an_address_has_so_many_tries_a_minute() -> None:
    clock = Clock()
    tries = FailedTries(clock)
    fail(tries, "192.0.2.1")
    with pytest.raises(TooManyAttempts) as refused:
        tries.check("192.0.2.1", "good, perhaps")
    assert refused.value.retry_after == pytest.approx(60 / MOST_FAILURES)
    tries.check("192.0.2.2", "x")
    clock.now += 60 / MOST_FAILURES
    fail(tries, "192.0.2.1", 1)
    with pytest.raises(TooManyAttempts):
        tries.check("192.0.2.1", "x")


def test_who_had_a_good_key_is_not_turned_away_for_the_failures_of_neighbours() -> None:
    tries = FailedTries(Clock())
    tries.passed("192.0.2.1", "good")
    fail(tries, "192.0.2.1")
    tries.check("192.0.2.1", "good")
    tries.failed("192.0.2.1", "good")  # it has been revoked
    with pytest.raises(TooManyAttempts):
        tries.check("192.0.2.1", "good")


def test_one_network_of_ipv6_is_one_address() -> None:
    tries = FailedTries(Clock())
    fail(tries, "2001:db8:1:2::1")
    with pytest.raises(TooManyAttempts):
        tries.check("2001:db8:1:2:ffff::9", "x")
    tries.check("2001:db8:1:3::1", "x")


def test_addresses_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MOST_ADDRESSES", 10)
    tries = FailedTries(Clock())
    for number in range(100):
        tries.failed(f"192.0.2.{number}", "x")
        tries.passed(f"192.0.2.{number}", "y")
    assert len(tries._left) == len(tries._good) == 10
