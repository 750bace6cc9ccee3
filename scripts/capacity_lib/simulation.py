# SPDX-License-Identifier: Apache-2.0
"""One machine's day.

An event loop takes requests in and gives answers out, a device computes, and a copy engine beside
it brings weights.

The rules are the appliance's own (README, 'Serve more models than fit'): what is on the device and
has work goes first; a model that has had its turn gives way to one that waits; the least recently
used goes to RAM, and from there to disk; weights move while others compute.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from capacity_lib.fleet import Machine, Model

__all__ = ["Outcome", "Simulation"]

Arrival = tuple[float, int, int]
"""Time, model, tokens."""

Queued = tuple[float, float, int]
"""When it came to the queue, when to the machine; its tokens."""


@dataclass(slots=True)
class Outcome:
    """What became of a machine's requests.

    Attributes:
        latencies: Seconds of each request.
        hits: Requests that found their model on the device.
        busy_seconds: Of the device.
        from_host: Models brought from RAM.
        from_disk: Models brought from disk.
        copy_seconds: Spent in both.
        tokens: Computed.
        ended: When the last was answered.
    """

    latencies: list[float] = field(default_factory=list)
    hits: int = 0
    busy_seconds: float = 0.0
    from_host: int = 0
    from_disk: int = 0
    copy_seconds: float = 0.0
    tokens: int = 0
    ended: float = 0.0


class Simulation:
    """One machine.

    Args:
        machine: What it is.
        models: All models.
    """

    def __init__(self, machine: Machine, models: Sequence[Model]) -> None:
        self._machine = machine
        self._models = models
        self._waiting: dict[int, deque[Queued]] = {}
        self._front_free = 0.0
        self._device: OrderedDict[int, float] = OrderedDict()  # least recently used first
        self._host: OrderedDict[int, None] = OrderedDict()
        self._came: dict[int, float] = {}
        self._computing: int | None = None
        self._copying: int | None = None
        self._events: list[tuple[float, int, str, int]] = []
        self._outcome = Outcome()

    def run(self, arrivals: Sequence[Arrival], warm: Sequence[int]) -> Outcome:
        """Serve requests until the last is answered.

        Args:
            arrivals: In order of time.
            warm: Models that are on the device at the start, as far as they fit.
        """
        for model in warm:
            if self._used() + self._models[model].gib <= self._machine.weights_gib:
                self._device[model] = 0.0
            self._keep_on_host(model)
        position = 0
        while position < len(arrivals) or self._events:
            queued = self._through_front(arrivals[position]) if position < len(arrivals) else None
            if queued is not None and (not self._events or queued[0] <= self._events[0][0]):
                now = self._front_free = queued[0]
                self._arrive(arrivals[position][1], queued)
                position += 1
            else:
                now, _, kind, model = heapq.heappop(self._events)
                self._end_copy(now, model) if kind == "copy" else self._end_batch()
            self._begin_batch(now)
            self._begin_copy(now)
        return self._outcome

    def _through_front(self, arrival: Arrival) -> Queued:
        """One thread reads all requests and writes all answers."""
        came, _, tokens = arrival
        return max(came, self._front_free) + self._machine.front_seconds, came, tokens

    def _arrive(self, model: int, queued: Queued) -> None:
        self._outcome.hits += model in self._device
        self._waiting.setdefault(model, deque()).append(queued)

    def _begin_batch(self, now: float) -> None:
        if self._computing is not None:
            return
        ready = [model for model in self._waiting if model in self._device]
        if not ready:
            return
        model = min(ready, key=lambda model: self._waiting[model][0][0])
        queue, taken, tokens = self._waiting[model], [], 0
        while queue and (not taken or tokens + queue[0][2] <= self._machine.batch_tokens):
            taken.append(queue.popleft())
            tokens += taken[-1][2]
        if not queue:
            del self._waiting[model]
        seconds = self._machine.batch_seconds + self._models[model].seconds(tokens, self._machine)
        self._computing = model
        self._device.move_to_end(model)
        heapq.heappush(self._events, (now + seconds, len(taken), "batch", model))
        outcome = self._outcome
        outcome.busy_seconds += seconds
        outcome.tokens += tokens
        outcome.ended = now + seconds
        outcome.latencies += [now + seconds - came for _, came, _ in taken]

    def _end_batch(self) -> None:
        self._computing = None

    def _begin_copy(self, now: float) -> None:
        if self._copying is not None:
            return
        absent = [model for model in self._waiting if model not in self._device]
        if not absent:
            return
        model = min(absent, key=lambda model: self._waiting[model][0][0])
        if not self._make_room(now, self._models[model].gib):
            return
        on_host = model in self._host
        rate = self._machine.copy_gib_s if on_host else self._machine.disk_gib_s
        seconds = self._models[model].gib / rate
        self._copying = model
        self._keep_on_host(model)
        heapq.heappush(self._events, (now + seconds, 0, "copy", model))
        self._outcome.copy_seconds += seconds
        self._outcome.from_host += on_host
        self._outcome.from_disk += not on_host

    def _end_copy(self, now: float, model: int) -> None:
        self._copying = None
        self._device[model] = now
        self._came[model] = now

    def _used(self) -> float:
        return sum(self._models[model].gib for model in self._device)

    def _make_room(self, now: float, gib: float) -> bool:
        """Put away models until so much is free, if those that may go are enough."""
        free = self._machine.weights_gib - self._used()
        going = []
        for model in self._device:
            if free >= gib:
                break
            has_turn = model in self._waiting and (
                now - self._came.get(model, 0.0) < self._machine.turn_seconds
            )
            if model != self._computing and not has_turn:
                going.append(model)
                free += self._models[model].gib
        if free < gib:
            return False
        for model in going:
            del self._device[model]
        return True

    def _keep_on_host(self, model: int) -> None:
        self._host[model] = None
        self._host.move_to_end(model)
        while sum(self._models[kept].gib for kept in self._host) > self._machine.host_gib:
            self._host.popitem(last=False)
