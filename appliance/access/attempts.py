# SPDX-License-Identifier: Apache-2.0
"""A limit on guesses: failed tries, by the address that they come from."""

from __future__ import annotations

import time
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

from appliance.access.quotas import Bucket, Clock
from appliance.errors import TooManyAttempts

__all__ = ["MOST_FAILURES", "FailedTries"]

MOST_FAILURES = 20
"""Failed tries that an address has within a minute."""

MOST_ADDRESSES = 10_000
"""Addresses, and pairs of one and a good key, that are remembered; the oldest go first."""


class FailedTries:
    """Counts failed tries, and turns addresses away that had too many.

    Many users may share an address, behind a proxy or a translator. So a key that was good from
    the same address lately still is while others are turned away.

    Args:
        clock: Monotonic, in seconds.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._left: OrderedDict[str, Bucket] = OrderedDict()
        self._good: OrderedDict[tuple[str, str], None] = OrderedDict()

    def check(self, address: str, digest: str) -> None:
        """Turn a key away unread, if its address had too many tries.

        Raises:
            TooManyAttempts: It had.
        """
        address = _network(address)
        left = self._left.get(address)
        if left is None or (address, digest) in self._good:
            return
        if wait := left.seconds_until(1):
            raise TooManyAttempts(
                "Too many requests with incorrect API keys came from your address.",
                retry_after=wait,
            )

    def failed(self, address: str, digest: str) -> None:
        """Count a key that is not good."""
        address = _network(address)
        self._good.pop((address, digest), None)
        if address not in self._left:
            self._left[address] = Bucket(MOST_FAILURES, self._clock)
        self._left.move_to_end(address)
        self._left[address].take(1)
        if len(self._left) > MOST_ADDRESSES:
            self._left.popitem(last=False)

    def passed(self, address: str, digest: str) -> None:
        """Remember a key that is good."""
        pair = (_network(address), digest)
        self._good[pair] = None
        self._good.move_to_end(pair)
        if len(self._good) > MOST_ADDRESSES:
            self._good.popitem(last=False)


def _network(address: str) -> str:
    """An address, or the network of IPv6 addresses that one user has all of."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return parsed.exploded[:19]
    return str(parsed)
