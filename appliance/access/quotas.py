# SPDX-License-Identifier: Apache-2.0
"""Quotas by the minute: what is left, and when it will be enough."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, Protocol

from appliance.access.grants import Grant
from appliance.errors import RequestsExceeded, TokensExceeded

__all__ = ["Bucket", "Counter", "Kind", "Quota", "Quotas"]

Clock = Callable[[], float]
Kind = Literal["requests", "tokens"]

MINUTE = 60.0
MOST_QUOTAS = 10_000


class Counter(Protocol):
    """What a key has left of one kind."""

    @property
    def limit(self) -> int:
        """What there is at most, and what flows in within a minute."""

    @property
    def level(self) -> float:
        """What is left, as far as is known; below 0 where more was taken than was there."""

    @property
    def is_idle(self) -> bool:
        """Whether a new one would be no different."""

    async def draw(self, amount: int) -> float:
        """Take an amount if it is there; else the seconds until it may be.

        More than the limit is there when all of that is.
        """

    def correct(self, difference: int) -> None:
        """Take what turned out to be used as well; a negative difference is put back."""


def seconds_until(amount: float, level: float, limit: int) -> float:
    """Time until a bucket holds an amount; 0 if it does. More than it can hold: until it is full.

    Args:
        amount: The amount.
        level: What is in the bucket.
        limit: What it holds, and what flows in within a minute.
    """
    lacking = min(amount, limit) - level
    return 0.0 if lacking <= 1e-6 else lacking * MINUTE / limit


class Bucket:
    """A token bucket: full at first, refilled evenly, over a minute from empty to full.

    Args:
        limit: What it holds, and what flows in within a minute.
        clock: Monotonic, in seconds, so that a step of the wall clock changes nothing.
        level: What is in it at first. Unset: it is full.
    """

    def __init__(
        self, limit: int, clock: Clock = time.monotonic, level: float | None = None
    ) -> None:
        self.limit = limit
        self._level = float(limit if level is None else level)
        self._clock = clock
        self._filled = clock()

    @property
    def level(self) -> float:
        """What is in it; below 0 where more was taken than was there."""
        now = self._clock()
        flown = (now - self._filled) * self.limit / MINUTE
        self._level = min(self._level + flown, self.limit)
        self._filled = now
        return self._level

    @property
    def is_idle(self) -> bool:
        """Whether it is full."""
        return self.level >= self.limit

    async def draw(self, amount: int) -> float:
        """Take an amount if it is there; else the seconds until it is. Never waits."""
        wait = self.seconds_until(amount)
        if not wait:
            self.take(amount)
        return wait

    def correct(self, difference: int) -> None:
        """Take a difference, whether it is there or not; a negative one is put back."""
        self.take(difference)

    def seconds_until(self, amount: float) -> float:
        """Time until it holds an amount; 0 if it does. More than it can hold: until it is full."""
        return seconds_until(amount, self.level, self.limit)

    def take(self, amount: float) -> None:
        """Take an amount, whether it is there or not; a negative one is put back."""
        self._level = min(self.level - amount, self.limit)


class Quota:
    """What one token may use.

    Args:
        requests: Counts its requests, if there is a limit.
        tokens: Counts its tokens, if there is a limit.
    """

    def __init__(self, requests: Counter | None, tokens: Counter | None) -> None:
        self.limits = tuple(None if kind is None else kind.limit for kind in (requests, tokens))
        self._requests = requests
        self._tokens = tokens

    @property
    def is_idle(self) -> bool:
        """Whether a new one would be no different."""
        return all(kind is None or kind.is_idle for kind in (self._requests, self._tokens))

    async def take_request(self) -> None:
        """Count one request.

        Raises:
            RequestsExceeded: There were too many; this one is not counted.
        """
        if self._requests is not None and (wait := await self._requests.draw(1)):
            raise RequestsExceeded(_reached("requests", self._requests, 1, wait), retry_after=wait)

    async def take_tokens(self, tokens: int) -> None:
        """Count tokens beforehand. More than the whole quota pass when all of it is there.

        Raises:
            TokensExceeded: There were too many; these are not counted.
        """
        if self._tokens is not None and (wait := await self._tokens.draw(tokens)):
            raise TokensExceeded(_reached("tokens", self._tokens, tokens, wait), retry_after=wait)

    def correct_tokens(self, difference: int) -> None:
        """Count tokens that turned out to be more than was said, or less."""
        if self._tokens is not None and difference:
            self._tokens.correct(difference)

    def headers(self) -> dict[str, str]:
        """OpenAI's headers on limits, for those that there are."""
        headers = {}
        for kind, counter in (("requests", self._requests), ("tokens", self._tokens)):
            if counter is not None:
                until_full = (counter.limit - counter.level) * MINUTE / counter.limit
                headers[f"x-ratelimit-limit-{kind}"] = str(counter.limit)
                headers[f"x-ratelimit-remaining-{kind}"] = str(_remaining(counter))
                headers[f"x-ratelimit-reset-{kind}"] = _duration(until_full)
        return headers


class Quotas:
    """The quotas of all tokens that were used lately.

    Args:
        make: Makes what counts one kind of use of one token, given the token's id, the kind and the
            limit. Unset: a bucket that is this process's own.
    """

    def __init__(
        self, make: Callable[[str, Kind, int], Counter] = lambda _id, _kind, limit: Bucket(limit)
    ) -> None:
        self._make = make
        self._quotas: OrderedDict[str, Quota] = OrderedDict()

    def of(self, grant: Grant) -> Quota | None:
        """The quota of a grant; ``None`` if it has none."""
        requests, tokens = limits = (grant.requests_per_minute, grant.tokens_per_minute)
        if grant.id is None or limits == (None, None):
            return None
        quota = self._quotas.get(grant.id)
        if quota is None or quota.limits != limits:
            self._make_room()
            quota = self._quotas[grant.id] = Quota(
                None if requests is None else self._make(grant.id, "requests", requests),
                None if tokens is None else self._make(grant.id, "tokens", tokens),
            )
        self._quotas.move_to_end(grant.id)
        return quota

    def _make_room(self) -> None:
        if len(self._quotas) < MOST_QUOTAS:
            return
        for id_ in [id_ for id_, quota in self._quotas.items() if quota.is_idle]:
            del self._quotas[id_]
        if len(self._quotas) >= MOST_QUOTAS:
            self._quotas.popitem(last=False)


def _remaining(counter: Counter) -> int:
    """Whole units that are left."""
    return max(math.floor(counter.level + 1e-6), 0)


def _reached(kind: Kind, counter: Counter, wanted: int, wait: float) -> str:
    return (
        f"Rate limit reached for this key on {kind} per min. Limit {counter.limit}, remaining"
        f" {_remaining(counter)}, requested {wanted}. Please try again in {_duration(wait)}."
    )


def _duration(seconds: float) -> str:
    """Write a time as OpenAI does: ``6m0s``, ``1.5s``, ``12ms``."""
    milliseconds = math.ceil(seconds * 1000 - 1e-6)
    if milliseconds < 1000:
        return f"{max(milliseconds, 0)}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    tail = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{minutes}m{tail}" if minutes else tail
