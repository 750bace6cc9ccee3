# SPDX-License-Identifier: Apache-2.0
"""Quotas by the minute, on a clock of the tests' own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.access import quotas
from appliance.access.grants import EVERYTHING, Grant
from appliance.access.quotas import Bucket, Quota, Quotas
from appliance.errors import RequestsExceeded, TokensExceeded


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def quota_of(requests: int | None, tokens: int | None, clock: Clock) -> Quota:
    return Quota(
        None if requests is None else Bucket(requests, clock),
        None if tokens is None else Bucket(tokens, clock),
    )


def remaining(bucket: Bucket) -> int:
    return int(Quota(bucket, None).headers()["x-ratelimit-remaining-requests"])


async def test_requests_are_refused_once_they_are_used_up_and_flow_back(clock: Clock) -> None:
    quota = quota_of(3, None, clock)
    for _ in range(3):
        await quota.take_request()
    with pytest.raises(RequestsExceeded) as refused:
        await quota.take_request()
    assert refused.value.retry_after == pytest.approx(20)
    assert "Limit 3, remaining 0, requested 1. Please try again in 20s." in refused.value.message
    clock.now += 19.9
    with pytest.raises(RequestsExceeded):
        await quota.take_request()
    clock.now += 0.1
    await quota.take_request()


async def test_tokens_are_corrected_by_what_was_really_used(clock: Clock) -> None:
    quota = quota_of(None, 600, clock)
    await quota.take_tokens(100)
    quota.correct_tokens(150)
    assert quota.headers()["x-ratelimit-remaining-tokens"] == "350"
    quota.correct_tokens(-250)
    assert quota.headers()["x-ratelimit-remaining-tokens"] == "600"
    await quota.take_tokens(600)
    quota.correct_tokens(60)  # more than there was: a debt
    assert quota.headers()["x-ratelimit-remaining-tokens"] == "0"
    with pytest.raises(TokensExceeded) as refused:
        await quota.take_tokens(10)
    assert refused.value.retry_after == pytest.approx(7)


async def test_more_than_the_whole_quota_passes_when_all_of_it_is_there(clock: Clock) -> None:
    quota = quota_of(None, 60, clock)
    await quota.take_tokens(100)
    with pytest.raises(TokensExceeded) as refused:
        await quota.take_tokens(100)
    assert refused.value.retry_after == pytest.approx(100)
    clock.now += 100
    await quota.take_tokens(100)


async def test_headers_are_those_of_openai(clock: Clock) -> None:
    quota = quota_of(100, 90_000, clock)
    await quota.take_request()
    await quota.take_tokens(45_001)
    assert quota.headers() == {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "99",
        "x-ratelimit-reset-requests": "600ms",
        "x-ratelimit-limit-tokens": "90000",
        "x-ratelimit-remaining-tokens": "44999",
        "x-ratelimit-reset-tokens": "30.001s",
    }
    quota.correct_tokens(450_000)
    assert quota.headers()["x-ratelimit-reset-tokens"] == "5m30.001s"
    assert quota_of(5, None, clock).headers() == {
        "x-ratelimit-limit-requests": "5",
        "x-ratelimit-remaining-requests": "5",
        "x-ratelimit-reset-requests": "0ms",
    }


@given(
    st.integers(1, 10**6), st.lists(st.tuples(st.floats(0, 100), st.integers(1, 1000)), max_size=60)
)
def test_no_more_passes_than_the_limit_and_what_flowed_in(
    limit: int, steps: list[tuple[float, int]]
) -> None:
    clock = Clock()
    start = clock.now
    bucket = Bucket(limit, clock)
    taken = 0
    for wait, amount in steps:
        clock.now += wait
        wanted = min(amount, limit)
        if (seconds := bucket.seconds_until(wanted)) == 0:
            bucket.take(wanted)
            taken += wanted
        else:
            clock.now += seconds
            assert bucket.seconds_until(wanted) < 1e-6, "the time that was told is not enough"
        assert taken <= limit + (clock.now - start) * limit / 60 + 1e-3
        assert 0 <= remaining(bucket) <= limit


async def test_each_token_has_a_quota_of_its_own(clock: Clock) -> None:
    all_quotas = Quotas(lambda _id, _kind, limit: Bucket(limit, clock))
    one, two = (Grant(id_, frozenset({"embed"}), requests_per_minute=1) for id_ in "ab")
    first, second = all_quotas.of(one), all_quotas.of(two)
    assert first is not None
    assert second is not None
    await first.take_request()
    await second.take_request()
    assert all_quotas.of(one) is first
    assert all_quotas.of(EVERYTHING) is None
    assert all_quotas.of(Grant("c", frozenset({"embed"}))) is None


async def test_quotas_take_no_more_memory_than_they_may(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "MOST_QUOTAS", 10)
    all_quotas = Quotas(lambda _id, _kind, limit: Bucket(limit, clock))
    used = Grant("used", frozenset({"embed"}), requests_per_minute=1)
    quota = all_quotas.of(used)
    assert quota is not None
    await quota.take_request()
    for number in range(100):
        all_quotas.of(Grant(f"idle-{number}", frozenset({"embed"}), requests_per_minute=1))
        assert len(all_quotas._quotas) <= 10
    assert all_quotas.of(used) is quota, "one in use gave way to idle ones"
