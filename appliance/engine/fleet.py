# SPDX-License-Identifier: Apache-2.0
"""The devices of an instance, and the models' copies on them."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from appliance.engine.backend import Backend, Prepared, Room
from appliance.engine.capacity import device_capacities, host_capacity
from appliance.engine.copies import HOST, Copy, Tier
from appliance.engine.device import Device
from appliance.engine.lane import Lane, Place
from appliance.engine.moving import Mover
from appliance.engine.residency import Residency
from appliance.engine.survey import Survey, take_survey
from appliance.engine.swap_folder import SwapFolder
from appliance.engine.watching import UNWATCHED, Watcher
from appliance.errors import ModelUnavailable
from appliance.settings import ModelSettings, Settings

__all__ = ["Fleet"]

SEVERAL_KEEP_KIB = 66_000
"""``cuda_memory_min_threshold_kib`` of a machine with several accelerators, where it is not set."""


class Fleet:
    """All devices, under one lock, with what moves weights between them and their tiers.

    Args:
        settings: The instance's settings.
        on_change: As for :class:`~appliance.engine.moving.Mover`.
        watcher: Told of batches and moves.

    Attributes:
        devices: By name.
        mover: Moves weights.
        residency: Decides what moves.
    """

    def __init__(
        self,
        settings: Settings,
        on_change: Callable[[Lane, Exception | None], None],
        watcher: Watcher = UNWATCHED,
    ) -> None:
        self._settings = settings
        self._watcher = watcher
        self._lock = threading.Lock()
        self.devices: dict[str, Device] = {}
        self.residency = Residency(settings.turn_seconds)
        self.mover = Mover(self._lock, self.residency, on_change, watcher)
        self._swap: SwapFolder | None = None
        self._hung: dict[str, list[_Trial]] = defaultdict(list)
        self._preparing = ThreadPoolExecutor(1, "preparing")
        self._preparations: set[Future[Prepared]] = set()

    def measure(self) -> None:
        """Find out what memory there is, once. Takes a while, on any thread.

        Raises:
            ModelUnavailable: The folder to swap to cannot be used.
        """
        if self.residency.capacities:
            return
        if self._settings.disk_swap:
            try:
                self._swap = SwapFolder(self._settings.swap_folder)
            except OSError as error:
                raise ModelUnavailable(f"swap_dir: {error}") from error
            self.mover.swap_folder = self._swap.path
        limit, offload = self._settings.max_cuda_memory_gib, self._settings.automatic_cpu_offload
        capacities = device_capacities(limit)
        accelerators = len(capacities) - 1
        kib = self._settings.cuda_memory_min_threshold_kib
        if kib is None:
            kib = SEVERAL_KEEP_KIB if accelerators > 1 else -1
        self.mover.keep_bytes = max(0, kib) * 1024 if accelerators else 0
        self.residency.capacities = {**capacities, HOST: host_capacity(limit, offload=offload)}

    def rooms(self) -> dict[str, Room]:
        """Each device's memory; known once it was measured."""
        with self._lock:
            return {
                name: Room(capacity, self.residency.used(name))
                for name, capacity in self.residency.capacities.items()
                if name != HOST
            }

    def survey(self, lanes: Iterable[Lane]) -> Survey:
        """What lies where at this moment."""
        with self._lock:
            return take_survey(self.residency, self.mover, lanes)

    def prepare(self, load: Callable[[Mapping[str, Room]], Prepared]) -> Future[Prepared]:
        """Have a model found and measured, on a thread where one at a time is.

        Args:
            load: Does it, given the devices that there are.
        """

        def prepare() -> Prepared:
            self.measure()
            return load(self.rooms())

        preparation = self._preparing.submit(prepare)
        self._preparations.add(preparation)
        preparation.add_done_callback(self._preparations.discard)
        return preparation

    def open(self, model: ModelSettings, prepared: Prepared) -> Lane:
        """Give a model a lane, and let its weights come as soon as there is room.

        Raises:
            ModelUnavailable: It was tried before, and that hangs still.
        """
        if any(trial.runs for trial in self._hung[model.name]):
            raise ModelUnavailable("its trial passes hang since it was loaded before")
        del self._hung[model.name]
        lane = Lane(
            model.name,
            self._lock,
            model.max_batch_tokens,
            model.max_batch_requests,
            self.mover.look,
        )
        devices = [self._device(name) for name in prepared.devices]
        for number, device in enumerate(devices):
            copy = Copy(
                model.name,
                prepared.sizes[number],
                lane.demand,
                behind=self._behind(device.name),
                pinned=model.pinned,
            )
            load = partial(self._load_copy, model, prepared, number, device)
            lane.places[device] = Place(copy, load)
            device.add(lane)
        with self._lock:
            for device in devices:
                self.mover.add(lane, device, lane.places[device], device.threads_per_worker)
        self.want(lane)
        return lane

    def want(self, lane: Lane) -> None:
        """Have a model's weights on a device, as if work waited for them."""
        with self._lock:
            lane.want()

    def send(self, copies: Iterable[Copy], tier: Tier | None = None) -> None:
        """Have copies leave as soon as they have no work.

        Args:
            copies: Which.
            tier: Where to. Unset: where they give way to.
        """
        with self._lock:
            for copy in copies:
                copy.leaves_for = tier or copy.behind
            self.mover.look()

    def keep(self, copies: Iterable[Copy]) -> None:
        """Have copies stay that were told to leave and have not yet."""
        with self._lock:
            for copy in copies:
                copy.leaves_for = None

    def close(self, lane: Lane) -> None:
        """Forget a lane that has no work and no weights anywhere."""
        for device in self.devices.values():
            if device in lane.places:
                device.remove(lane)
        with self._lock:
            self.mover.forget(lane)

    def stop(self) -> None:
        """Let the batches in flight finish, end every thread, and give all memory back."""
        self._preparing.shutdown(wait=False, cancel_futures=True)
        self.mover.stop()
        for device in self.devices.values():
            device.stop()
        if not any(device.hangs for device in self.devices.values()):
            self.mover.close()
        if self._swap is not None:
            self._swap.close()

    @property
    def hangs(self) -> bool:
        """Whether a batch, a move or a download goes on though all was stopped."""
        if self.mover.hangs or (self.mover.is_stopped and self._preparations):
            return True
        return any(device.hangs for device in self.devices.values())

    @property
    def fault(self) -> str:
        """What keeps a device from its work; empty if nothing does."""
        faults = (device.fault for device in list(self.devices.values()))
        return next((fault for fault in faults if fault), "")

    def look_after(self) -> None:
        """Repair what can be repaired. To be called once in a while."""
        for device in list(self.devices.values()):
            device.look_after()

    def _load_copy(
        self, model: ModelSettings, prepared: Prepared, number: int, device: Device
    ) -> Backend:
        backend = prepared.load(number)
        trial = _Trial(backend, device.batch_tokens(backend, model.max_batch_tokens))
        try:
            device.run(trial).result()
        except BaseException:
            trial.give_up()
            if trial.runs:
                self._hung[model.name].append(trial)
            raise
        return backend

    def _device(self, name: str) -> Device:
        if name not in self.devices:
            workers = self._settings.cpu_workers
            self.devices[name] = Device(
                name,
                workers,
                self._lock,
                self.mover.glance,
                self._settings.forward_timeout_seconds,
                self._watcher,
            )
            self.devices[name].start()
        return self.devices[name]

    def _behind(self, device: str) -> Tier:
        if self._settings.disk_swap:
            return "disk"
        has_room = self.residency.capacities[HOST] > 0
        return "host" if has_room and device != "cpu" else "source"


class _Trial:
    """The first passes of a model, on a worker's thread.

    Args:
        backend: The model.
        batch_tokens: Tokens of its batches.

    Attributes:
        runs: Whether they are under way.
    """

    def __init__(self, backend: Backend, batch_tokens: int) -> None:
        self._backend = backend
        self._batch_tokens = batch_tokens
        self._lock = threading.Lock()
        self._is_given_up = False
        self.runs = False

    def __call__(self) -> None:
        with self._lock:
            self.runs = True
        try:
            self._backend.warm_up(self._batch_tokens)
        finally:
            with self._lock:
                self.runs = False
                is_given_up = self._is_given_up
            if is_given_up:
                self._close()

    def give_up(self) -> None:
        """Give the model's memory back: now, or once a pass under way, which uses it, has ended."""
        with self._lock:
            self._is_given_up = True
            runs = self.runs
        if not runs:
            self._close()

    def _close(self) -> None:
        with suppress(Exception):  # the fault of the trial is the one to tell
            self._backend.close()
