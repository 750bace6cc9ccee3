# SPDX-License-Identifier: Apache-2.0
"""The threads that move weights, while others compute.

What moves is decided by :mod:`appliance.engine.residency`, under the devices' lock. Each device has
a thread that carries it out. Loading from a model's own files, which takes longest, has a thread of
its own, so that no model that is only parked waits behind it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from appliance.engine.backend import (
    Backend,
    DeviceOutOfMemory,
    Parking,
    ParkingFailed,
    WeightsLost,
)
from appliance.engine.copies import Copy, Move, Tier
from appliance.engine.lane import Lane, Place, Station
from appliance.engine.residency import Residency
from appliance.engine.watching import UNWATCHED, MoveReport, Watcher
from appliance.errors import ModelUnavailable

__all__ = ["Moved", "Mover"]

logger = logging.getLogger(__name__)

GUESSED_BYTES_PER_SECOND = {"host": 10e9, "disk": 1e9}
"""How fast weights come back, until it has been seen."""

STOP_SECONDS = 2.0
"""Time that moves under way have to end at a stop. To read a model's files may take minutes, and
nothing is lost where that is left undone."""


@dataclass(slots=True)
class Moved:
    """How often weights have moved from one tier to another, and what it took."""

    times: int = 0
    bytes: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    """Seconds of the longest move."""


@dataclass(frozen=True, slots=True)
class Berth:
    """A copy's place, and what it belongs to."""

    lane: Lane
    device: Station
    place: Place


class Mover:
    """Moves weights as the budgets of the devices have it.

    Args:
        lock: The devices' lock.
        residency: Decides what moves.
        on_change: Told of a lane after one of its copies has moved, or failed to; with the reason
            if it cannot be served. Called on any thread, at times with the lock held.
        watcher: Told of each move.

    Attributes:
        swap_folder: Where weights go that are swapped to disk and cannot be read back from the
            model's own files.
        keep_bytes: Tensors of up to so many bytes stay on the device.
        moved: What has moved so far, by origin and destination.
        swaps: How often the weights of a model have moved, by its name.
    """

    def __init__(
        self,
        lock: threading.Lock,
        residency: Residency,
        on_change: Callable[[Lane, Exception | None], None],
        watcher: Watcher = UNWATCHED,
    ) -> None:
        self._stopped = False
        self._is_settled = False
        self.moved: dict[tuple[Tier, Tier], Moved] = defaultdict(Moved)
        self.swaps: Counter[str] = Counter()
        self._lock = lock
        self._residency = residency
        self.swap_folder: Path | None = None
        self.keep_bytes = 0
        self._on_change = on_change
        self._watcher = watcher
        self._berths: dict[Copy, Berth] = {}
        self._loader = ThreadPoolExecutor(1, "loader")
        self._threads: dict[Station, ThreadPoolExecutor] = {}
        self._under_way: set[Future[None]] = set()

    def add(self, lane: Lane, device: Station, place: Place, threads: int = 1) -> None:
        """Take care of one copy of a lane. Called with the lock held.

        Args:
            lane: The lane.
            device: The device that it computes on.
            place: Its place there.
            threads: Cores that a move may use.
        """
        self._residency.copies.append(place.copy)
        self._berths[place.copy] = Berth(lane, device, place)
        if device not in self._threads:
            self._threads[device] = ThreadPoolExecutor(
                1, f"mover-{len(self._threads)}", _use_threads, (threads,)
            )

    def forget(self, lane: Lane) -> None:
        """Take no more care of a lane, whose weights are gone. Called with the lock held."""
        for copy in [copy for copy, berth in self._berths.items() if berth.lane is lane]:
            self._residency.copies.remove(copy)
            del self._berths[copy]

    def stop(self) -> None:
        """Start no more moves."""
        with self._lock:
            self._stopped = True

    def close(self) -> None:
        """Let the moves under way end, and give back all memory. Once the devices have stopped."""
        for pool in (self._loader, *self._threads.values()):
            pool.shutdown(wait=False, cancel_futures=True)
        wait(list(self._under_way), STOP_SECONDS)
        for copy, berth in list(self._berths.items()):
            if copy.moving_to is not None:
                logger.warning("%s: its way to %s has not ended", copy.name, copy.moving_to)
            elif copy.tier != "source":
                with suppress(Exception):  # the others are closed all the same
                    berth.place.backend.close()

    @property
    def is_stopped(self) -> bool:
        """Whether no more moves are started."""
        return self._stopped

    @property
    def hangs(self) -> bool:
        """Whether a move goes on though all was stopped."""
        return self._stopped and bool(self._under_way)

    def glance(self) -> float | None:
        """As :meth:`look`, for those who ask between any two batches and have nothing to tell."""
        return None if self._is_settled else self.look()

    def look(self) -> float | None:
        """Start the moves whose time has come. Called with the lock held.

        Returns:
            Seconds after which to look again, though nothing else has happened by then.
        """
        if self._stopped:
            return None
        now = time.perf_counter()
        plan = self._residency.plan(now)
        self._is_settled = plan.is_settled
        for move in plan.moves:
            loads = (move.origin, move.to) == ("source", "device")
            pool = self._loader if loads else self._threads[self._berths[move.copy].device]
            carried_out = pool.submit(self._carry_out, move)
            self._under_way.add(carried_out)
            carried_out.add_done_callback(self._under_way.discard)
        for copy in plan.refused:
            copy.demand.since = None  # or it would be refused for ever
            self._on_change(self._berths[copy].lane, self._refusal(copy))
        return None if plan.look_again == math.inf else max(0.0, plan.look_again - now)

    def _carry_out(self, move: Move) -> None:
        berth = self._berths[move.copy]
        started = time.perf_counter()
        to, loaded, error = self._attempt(berth, move)
        failure = error
        with self._lock:
            if loaded is not None:
                self._install(berth, loaded, time.perf_counter() - started)
            self._settle(move, to, time.perf_counter() - started)
            if to == "device":
                berth.lane.note_work(came=True)
            if error is not None and any(copy.tier == "device" for copy in berth.lane.copies):
                logger.error("a copy of %s is given up: %s", move.copy.name, error)
                move.copy.given_up, error = True, None
            if error is not None:  # whoever is told of it answers what waits
                berth.lane.demand.since = None
            self.look()
            berth.lane.wake()
            for other in self._berths.values():
                if len(other.lane.queue):
                    other.device.wake()
        self._on_change(berth.lane, error)
        size, seconds = move.copy.total_bytes, time.perf_counter() - started
        report = MoveReport(move.copy.name, move.origin, to, size, started, seconds, failure)
        self._watcher.moved(report)

    def _attempt(self, berth: Berth, move: Move) -> tuple[Tier, Backend | None, Exception | None]:
        """Where weights have come to, what was loaded, if it was, and what went wrong."""
        try:
            if (move.origin, move.to) == ("source", "device"):
                return "device", berth.place.load(), None
            return self._shift(berth.place.backend, move), None, None
        except DeviceOutOfMemory as error:
            logger.warning("%s does not fit on its device yet: %s", move.copy.name, error)
            with self._lock:
                self._residency.overflowed(move.copy)
            return move.origin, None, None
        except Exception as error:  # whatever it is, the others go on
            if berth.place.executor is not None:
                with suppress(Exception):  # it is given up anyhow
                    berth.place.backend.close()
            return "source", None, error

    def _shift(self, backend: Backend, move: Move) -> Tier:
        """Move weights, and say where they came to."""
        name = move.copy.name
        try:
            if move.to == "device":
                backend.restore()
            elif move.to == "host" or move.to == "disk":
                backend.park(Parking(move.to, self.swap_folder, self.keep_bytes))
            else:
                backend.close()
        except ParkingFailed as error:
            logger.warning("%s: to %s failed, so it is unloaded: %s", name, move.to, error)
            backend.close()
            return "source"
        except WeightsLost as error:
            logger.warning("%s: from %s failed, so it is loaded anew: %s", name, move.origin, error)
            backend.close()
            return "source"
        return move.to

    def _install(self, berth: Berth, backend: Backend, seconds: float) -> None:
        copy = berth.place.copy
        berth.lane.install(berth.device, backend)
        copy.sizes = backend.sizes
        copy.scratch = backend.scratch_bytes
        if not backend.can_park:
            copy.behind = "source"
        copy.stays = backend.kept(self.keep_bytes) if copy.behind != "source" else {}
        if copy.behind == "source":
            copy.return_seconds = seconds
        elif not copy.return_seconds:
            copy.return_seconds = copy.total_bytes / GUESSED_BYTES_PER_SECOND[copy.behind]

    def _settle(self, move: Move, to: Tier, seconds: float) -> None:
        copy = move.copy
        if to == "device":
            is_return = move.origin == copy.behind
            self._residency.arrived(copy, time.perf_counter(), seconds if is_return else None)
        else:
            self._residency.departed(copy, to)
        if copy in self._berths and self._berths[copy].place.executor is not None:
            parked = self._berths[copy].place.backend.parked_bytes
            copy.parked, copy.on_disk = parked.get("host", 0), parked.get("disk", 0)
        if to == move.origin:
            return
        moved = self.moved[move.origin, to]
        self.swaps[copy.name] += 1
        moved.times += 1
        moved.bytes += copy.total_bytes
        moved.seconds += seconds
        moved.longest = max(moved.longest, seconds)

    def _refusal(self, copy: Copy) -> ModelUnavailable:
        most = self._residency.capacities
        devices = ", ".join(
            f"{size / 2**30:.3g} GiB of {device}, of which models may take"
            f" {most[device] / 2**30:.3g}"
            for device, size in copy.sizes.items()
        )
        return ModelUnavailable(
            f"it does not fit beside pinned models and other programs: it needs {devices}"
        )


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
