# SPDX-License-Identifier: Apache-2.0
"""Quotas by the minute: what is left, and when it will be enough."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from appliance.access.grants import Grant
from appliance.errors import RequestsExceeded, TokensExceeded

__all__ = ["Bucket", "Quota", "Quotas"]

Clock = Callable[[], float]

MINUTE = 60.0
MOST_QUOTAS = 10_000


class Bucket:
    """A token bucket: full at first, refilled evenly, over a minute from empty to full.

    Args:
        limit: What it holds, and what flows in within a minute.
        clock: Monotonic, in seconds, so that a step of the wall clock changes nothing.
    """

    def __init__(self, limit: int, clock: Clock = time.monotonic) -> None:
        self.limit = limit
        self._level = float(limit)
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
    def remaining(self) -> int:
        """Whole units that are left."""
        return max(math.floor(self.level + 1e-6), 0)

    @property
    def seconds_until_full(self) -> float:
        """Time until it is full, if nothing is taken."""
        return (self.limit - self.level) * MINUTE / self.limit

    def seconds_until(self, amount: float) -> float:
        """Time until it holds an amount; 0 if it does. More than it can hold: until it is full."""
        lacking = min(amount, self.limit) - self.level
        return 0.0 if lacking <= 1e-6 else lacking * MINUTE / self.limit

    def take(self, amount: float) -> None:
        """Take an amount, whether it is there or not; a negative one is put back."""
        self._level = min(self.level - amount, self.limit)


class Quota:
    """What one token may use.

    Args:
        requests: Most requests a minute, if there is a limit.
        tokens: Most tokens a minute, if there is a limit.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self, requests: int | None, tokens: int | None, clock: Clock = time.monotonic
    ) -> None:
        self.limits = (requests, tokens)
        self._requests = None if requests is None else Bucket(requests, clock)
        self._tokens = None if tokens is None else Bucket(tokens, clock)

    @property
    def is_full(self) -> bool:
        """Whether a new one would be no different."""
        buckets = (self._requests, self._tokens)
        return all(bucket is None or bucket.level >= bucket.limit for bucket in buckets)

    def take_request(self) -> None:
        """Count one request.

        Raises:
            RequestsExceeded: There were too many; this one is not counted.
        """
        bucket = self._requests
        if bucket is None:
            return
        if wait := bucket.seconds_until(1):
            raise RequestsExceeded(_reached("requests", bucket, 1, wait), retry_after=wait)
        bucket.take(1)

    def take_tokens(self, tokens: int) -> None:
        """Count tokens beforehand. More than the whole quota pass when all of it is there.

        Raises:
            TokensExceeded: There were too many; these are not counted.
        """
        bucket = self._tokens
        if bucket is None:
            return
        if wait := bucket.seconds_until(tokens):
            raise TokensExceeded(_reached("tokens", bucket, tokens, wait), retry_after=wait)
        bucket.take(tokens)

    def correct_tokens(self, difference: int) -> None:
        """Count tokens that turned out to be more than was said, or less."""
        if self._tokens is not None:
            self._tokens.take(difference)

    def headers(self) -> dict[str, str]:
        """OpenAI's headers on limits, for those that there are."""
        headers = {}
        for kind, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket is not None:
                headers[f"x-ratelimit-limit-{kind}"] = str(bucket.limit)
                headers[f"x-ratelimit-remaining-{kind}"] = str(bucket.remaining)
                headers[f"x-ratelimit-reset-{kind}"] = _duration(bucket.seconds_until_full)
        return headers


class Quotas:
    """The quotas of all tokens that were used lately.

    They are this process's own: several replicas each grant the whole.

    Args:
        clock: Monotonic, in seconds.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._quotas: OrderedDict[str, Quota] = OrderedDict()

    def of(self, grant: Grant) -> Quota | None:
        """The quota of a grant; ``None`` if it has none."""
        limits = (grant.requests_per_minute, grant.tokens_per_minute)
        if grant.id is None or limits == (None, None):
            return None
        quota = self._quotas.get(grant.id)
        if quota is None or quota.limits != limits:
            self._make_room()
            quota = self._quotas[grant.id] = Quota(*limits, self._clock)
        self._quotas.move_to_end(grant.id)
        return quota

    def _make_room(self) -> None:
        if len(self._quotas) < MOST_QUOTAS:
            return
        for id_ in [id_ for id_, quota in self._quotas.items() if quota.is_full]:
            del self._quotas[id_]
        if len(self._quotas) >= MOST_QUOTAS:
            self._quotas.popitem(last=False)


def _reached(kind: str, bucket: Bucket, wanted: int, wait: float) -> str:
    return (
        f"Rate limit reached for this key on {kind} per min. Limit {bucket.limit}, remaining"
        f" {bucket.remaining}, requested {wanted}. Please try again in {_duration(wait)}."
    )


def _duration(seconds: float) -> str:
    """Write a time as OpenAI does: ``6m0s``, ``1.5s``, ``12ms``."""
    milliseconds = math.ceil(seconds * 1000 - 1e-6)
    if milliseconds < 1000:
        return f"{max(milliseconds, 0)}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    tail = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{minutes}m{tail}" if minutes else tail
