# SPDX-License-Identifier: Apache-2.0
"""Models that come, go, fail and come back, on real threads."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from appliance.engine.backend import DeviceOutOfMemory, ParkingFailed, WeightsLost
from appliance.engine.lifecycle import COOL_DOWN_SECONDS
from appliance.errors import ModelUnavailable
from appliance.settings import ModelSettings
from tests.unit.fleets import SIZE, House, ask, eventually, named, patiently, serving
from tests.unit.tickets import PATIENCE

MODEL = named("one")
PAIR = named("one", "two")


class Barrier:
    """Holds threads up until the test lets them go."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, *_: str) -> None:
        self.reached.set()
        assert self.opened.wait(PATIENCE)


@pytest.fixture
def house() -> House:
    """Room for one model."""
    return House({"cpu": SIZE})


async def raises_unavailable(task: asyncio.Future[None]) -> ModelUnavailable:
    with pytest.raises(ModelUnavailable) as raised:
        await patiently(task)
    return raised.value


class TestRoomForOne:
    async def test_two_models_take_turns(self, house: House, tmp_path: Path) -> None:
        async with serving(house, *PAIR, disk_swap=True, swap_dir=tmp_path) as engine:
            for _ in range(3):
                await patiently(ask(engine, "one"))
                await patiently(ask(engine, "two"))
        assert house.moves("one")[:5] == ["load", "park", "restore", "park", "restore"]
        house.check()

    async def test_without_a_place_behind_the_device_they_are_loaded_anew(
        self, house: House
    ) -> None:
        async with serving(house, *PAIR) as engine:
            for name in ("one", "two", "one"):
                await patiently(ask(engine, name))
        assert house.moves("one") == ["load", "close", "load", "close"]
        house.check()

    async def test_ram_is_behind_an_accelerator(self) -> None:
        house = House({"cuda:0": SIZE}, devices=("cuda:0",))
        async with serving(house, *PAIR, host=2 * SIZE) as engine:
            for name in ("one", "two", "one"):
                await patiently(ask(engine, name))
            assert engine.model("two").state == "offloaded"
        assert house.moves("one")[:3] == ["load", "park", "restore"]
        house.check()

    async def test_both_are_served_while_both_have_work(self, house: House, tmp_path: Path) -> None:
        async with serving(house, *PAIR, disk_swap=True, swap_dir=tmp_path) as engine:
            asked = [ask(engine, name, f"{n}") for n in range(200) for name in ("one", "two")]
            await patiently(asyncio.gather(*asked))
        house.check()

    async def test_idle_workers_look_again_when_it_is_time(
        self, house: House, tmp_path: Path
    ) -> None:
        """Nothing else happens meanwhile that could wake them."""
        options = {"disk_swap": True, "swap_dir": tmp_path, "turn_seconds": 0.3}
        async with serving(house, *PAIR, **options) as engine:
            await patiently(ask(engine, "two"))
            await patiently(ask(engine, "one"))
            (copy,) = engine.model("one").copies
            copy.return_seconds = 0.3  # so that it is spared at first
            await patiently(engine.lifecycle.bring_to_device(engine.model("two")))
            await eventually(lambda: engine.model("two").state == "idle")

    async def test_what_can_never_fit_is_refused(self, house: House) -> None:
        house.sizes = {"two": SIZE + 1}
        async with serving(house, *PAIR) as engine:
            error = await raises_unavailable(ask(engine, "two"))
            assert "does not fit" in str(error)
            await patiently(ask(engine, "one"))
        house.check()

    async def test_pinned_ones_leave_no_room_for_others(self, house: House) -> None:
        one = ModelSettings(model="one", pinned=True)
        async with serving(house, one, *named("two")) as engine:
            await patiently(ask(engine, "one"))
            error = await raises_unavailable(ask(engine, "two"))
            assert "pinned" in str(error)
            await patiently(ask(engine, "one"))
        assert house.moves("one") == ["load", "close"]


class TestWhileOthersCompute:
    async def test_weights_come_while_another_model_computes(self, tmp_path: Path) -> None:
        house, busy = House({"cpu": 2 * SIZE}), Barrier()
        three = named("one", "two", "three")
        async with serving(house, *three, disk_swap=True, swap_dir=tmp_path) as engine:
            for name in ("two", "three", "one"):
                await patiently(ask(engine, name))
            house.on_batch = lambda name: busy() if name == "one" else None
            held = asyncio.create_task(ask(engine, "one"))
            assert await asyncio.to_thread(busy.reached.wait, PATIENCE)
            asked = asyncio.create_task(ask(engine, "two"))
            await eventually(lambda: any(c.is_here for c in engine.model("two").copies))
            assert not asked.done()  # the one worker is busy still
            busy.opened.set()
            await patiently(asyncio.gather(held, asked))
        house.check()

    async def test_a_model_in_use_keeps_its_place(self, house: House, tmp_path: Path) -> None:
        busy = Barrier()
        async with serving(house, *PAIR, disk_swap=True, swap_dir=tmp_path) as engine:
            await patiently(ask(engine, "one"))
            house.on_batch = lambda name: busy() if name == "one" else None
            held = asyncio.create_task(ask(engine, "one"))
            assert await asyncio.to_thread(busy.reached.wait, PATIENCE)
            asked = asyncio.create_task(ask(engine, "two"))
            copies = engine.lifecycle.fleet.residency.copies
            await eventually(lambda: any(c.name == "two" and c.demand.since for c in copies))
            await asyncio.sleep(0.02)  # the turn of the one is over by now, its batch is not
            assert house.moves("one") == ["load"]
            assert not house.moves("two")
            busy.opened.set()
            await patiently(asyncio.gather(held, asked))
        house.check()


class TestCopiesOnTwoDevices:
    @pytest.fixture
    def house(self) -> House:
        devices = ("cuda:0", "cuda:1")
        return House(dict.fromkeys(devices, SIZE), devices=devices)

    async def test_both_are_loaded(self, house: House) -> None:
        async with serving(house, *MODEL) as engine:
            await patiently(ask(engine, "one"))
            await eventually(lambda: all(c.is_here for c in engine.model("one").copies))
        house.check()

    async def test_one_that_fails_is_given_up_and_the_other_serves(self, house: House) -> None:
        def break_the_second(name: str, what: str) -> None:
            if what == "load" and house.backends:
                house.errors[name, "load"].append(RuntimeError("no such layer"))

        house.on_move = break_the_second
        async with serving(house, *MODEL) as engine:
            await patiently(ask(engine, "one"))
            await eventually(lambda: any(c.given_up for c in engine.model("one").copies))
            for _ in range(3):
                await patiently(ask(engine, "one"))
            await eventually(lambda: engine.model("one").state == "idle")
            await patiently(engine.lifecycle.unload(engine.model("one")))
            house.on_move = lambda name, what: None
            await patiently(ask(engine, "one"))
            await eventually(lambda: all(c.is_here for c in engine.model("one").copies))
        house.check()


class TestFailures:
    async def test_a_failed_load_keeps_its_reason_until_it_has_cooled_down(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        house.errors["one", "load"].append(RuntimeError("no such layer"))
        async with serving(house, *PAIR) as engine:
            for _ in range(2):
                error = await raises_unavailable(ask(engine, "one"))
                assert "no such layer" in str(error)
                assert 0 < (error.retry_after or 0) <= COOL_DOWN_SECONDS
            assert engine.model("one").state == "failed"
            assert house.moves("one") == []
            await patiently(ask(engine, "two"))
            monkeypatch.setattr("appliance.engine.lifecycle.COOL_DOWN_SECONDS", 0.0)
            await patiently(ask(engine, "one"))
            await eventually(lambda: engine.model("one").state == "idle")
        house.check()

    async def test_a_model_that_fails_to_warm_up_gives_its_memory_back(self, house: House) -> None:
        house.errors["one", "warm up"].append(RuntimeError("bad kernel"))
        async with serving(house, *PAIR) as engine:
            await raises_unavailable(ask(engine, "one"))
            assert house.backends[0].is_released
            await patiently(ask(engine, "two"))
        house.check()

    @pytest.mark.parametrize("error", [WeightsLost("torn"), ParkingFailed("disk full")])
    async def test_weights_that_are_gone_are_loaded_anew(
        self, house: House, tmp_path: Path, error: Exception
    ) -> None:
        what = "restore" if isinstance(error, WeightsLost) else "park"
        house.errors["one", what].append(error)
        async with serving(house, *PAIR, disk_swap=True, swap_dir=tmp_path) as engine:
            await patiently(ask(engine, "one"))
            await patiently(ask(engine, "two"))
            await patiently(asyncio.gather(*(ask(engine, "one", f"{n}") for n in range(9))))
            assert not engine.model("one").reason
        assert house.moves("one").count("load") == 2
        house.check()

    async def test_a_fault_in_moving_answers_who_waits_and_spares_the_others(
        self, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with serving(house, *PAIR, disk_swap=True, swap_dir=tmp_path) as engine:
            await patiently(ask(engine, "one"))
            await patiently(ask(engine, "two"))
            house.errors["one", "restore"].append(RuntimeError("bus error"))
            error = await raises_unavailable(ask(engine, "one"))
            assert "bus error" in str(error)
            await patiently(ask(engine, "two"))
            await eventually(lambda: house.backends[0].is_released)
            monkeypatch.setattr("appliance.engine.lifecycle.COOL_DOWN_SECONDS", 0.0)
            await patiently(ask(engine, "one"))
        house.check()

    async def test_a_device_without_room_has_others_give_way(self) -> None:
        house = House({"cpu": 2 * SIZE})
        house.errors["two", "load"].append(DeviceOutOfMemory())
        async with serving(house, *PAIR) as engine:
            await patiently(ask(engine, "one"))
            await patiently(ask(engine, "two"))
            assert engine.model("one").state == "unloaded"
        house.check()

    async def test_one_that_finds_no_room_when_alone_may_try_again_later(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        house.errors["one", "load"].append(DeviceOutOfMemory())
        async with serving(house, *MODEL) as engine:
            await raises_unavailable(ask(engine, "one"))
            monkeypatch.setattr("appliance.engine.lifecycle.COOL_DOWN_SECONDS", 0.0)
            await patiently(ask(engine, "one"))
        house.check()


class TestUnloading:
    async def test_requests_under_way_are_answered_first(self, house: House) -> None:
        house.on_batch = barrier = Barrier()
        async with serving(house, *MODEL) as engine:
            model = engine.model("one")
            asked = asyncio.create_task(ask(engine, "one"))
            await eventually(barrier.reached.is_set)
            unloading = asyncio.create_task(engine.lifecycle.unload(model))
            await asyncio.sleep(0)
            later = asyncio.create_task(ask(engine, "one", "another"))
            barrier.opened.set()
            await patiently(asyncio.gather(asked, unloading, later))
            assert house.moves("one") == ["load", "close", "load"]
        house.check()

    async def test_all_memory_is_given_back(self, house: House) -> None:
        async with serving(house, *MODEL) as engine:
            await patiently(ask(engine, "one"))
            await patiently(engine.lifecycle.unload(engine.model("one")))
            assert engine.model("one").state == "unloaded"
            house.check()

    async def test_a_parked_model_is_unloaded_too(self, house: House, tmp_path: Path) -> None:
        async with serving(house, *MODEL, disk_swap=True, swap_dir=tmp_path) as engine:
            model = engine.model("one")
            await patiently(ask(engine, "one"))
            assert await patiently(engine.lifecycle.park(model))
            assert model.state == "swapped"
            await patiently(engine.lifecycle.unload(model))
            house.check()

    async def test_an_order_to_unload_overtakes_one_to_park(
        self, house: House, tmp_path: Path
    ) -> None:
        async with serving(house, *MODEL, disk_swap=True, swap_dir=tmp_path) as engine:
            model = engine.model("one")
            await patiently(ask(engine, "one"))
            house.on_move = barrier = Barrier()
            parking = asyncio.create_task(engine.lifecycle.park(model))
            await eventually(barrier.reached.is_set)
            unloading = asyncio.create_task(engine.lifecycle.unload(model))
            await asyncio.sleep(0)
            barrier.opened.set()
            await patiently(asyncio.gather(parking, unloading))
            house.check()

    async def test_one_that_is_being_brought_in_is_unloaded_once_it_has_come(
        self, house: House, tmp_path: Path
    ) -> None:
        async with serving(house, *MODEL, disk_swap=True, swap_dir=tmp_path) as engine:
            model = engine.model("one")
            await patiently(ask(engine, "one"))
            await patiently(engine.lifecycle.park(model))
            house.on_move = barrier = Barrier()
            loading = asyncio.create_task(engine.lifecycle.bring_to_device(model))
            await eventually(barrier.reached.is_set)
            unloading = asyncio.create_task(engine.lifecycle.unload(model))
            await asyncio.sleep(0)
            barrier.opened.set()
            await patiently(asyncio.gather(loading, unloading))
            house.check()


class TestKeepAlive:
    async def test_a_model_is_unloaded_when_nobody_has_used_it_for_so_long(
        self, house: House
    ) -> None:
        async with serving(house, *named("one", keep_alive=0.01)) as engine:
            await patiently(ask(engine, "one"))
            await eventually(lambda: engine.model("one").state == "unloaded")
            house.check()
            await patiently(ask(engine, "one"))

    async def test_a_request_may_set_it(self, house: House) -> None:
        async with serving(house, *MODEL) as engine:
            model = engine.model("one")
            await patiently(ask(engine, "one", keep_alive=3600))
            assert model.expires is not None
            await eventually(lambda: model.state == "idle")
            await patiently(ask(engine, "one", keep_alive=-1))
            assert model.expires is None
            await patiently(ask(engine, "one", keep_alive=0))
            await eventually(lambda: model.state == "unloaded")
            house.check()

    async def test_pinned_ones_are_kept_whatever_is_asked(self, house: House) -> None:
        async with serving(house, *named("one", pinned=True)) as engine:
            model = engine.model("one")
            await patiently(ask(engine, "one", keep_alive=0))
            assert model.expires is None
            await eventually(lambda: model.state == "idle")

    async def test_all_are_answered_where_none_is_kept(self, house: House) -> None:
        async with serving(house, *named("one", "two", keep_alive=0)) as engine:
            for _ in range(5):
                asked = [ask(engine, name, f"{n}") for n in range(9) for name in ("one", "two")]
                await patiently(asyncio.gather(*asked))
            await eventually(lambda: all(tenant.is_released for tenant in house.backends))
        house.check()


class TestParking:
    async def test_a_model_that_has_no_pause_is_not_parked(
        self, house: House, tmp_path: Path
    ) -> None:
        options = {"disk_swap": True, "swap_dir": tmp_path, "model_wait_seconds": 0.05}
        async with serving(house, *MODEL, **options) as engine:
            model = engine.model("one")
            await patiently(ask(engine, "one"))
            house.on_batch = barrier = Barrier()
            asked = asyncio.create_task(ask(engine, "one"))
            await eventually(barrier.reached.is_set)
            assert not await patiently(engine.lifecycle.park(model))
            barrier.opened.set()
            await patiently(asked)
            await patiently(ask(engine, "one"))
            assert "park" not in house.moves("one")  # nor is it later, behind one's back

    async def test_it_comes_back_with_the_next_request(self, house: House, tmp_path: Path) -> None:
        async with serving(house, *MODEL, disk_swap=True, swap_dir=tmp_path) as engine:
            await patiently(ask(engine, "one"))
            assert await patiently(engine.lifecycle.park(engine.model("one")))
            await patiently(ask(engine, "one"))
        assert house.moves("one") == ["load", "park", "restore", "close"]

    async def test_a_client_that_leaves_does_not_take_back_an_order_to_load(
        self, house: House, tmp_path: Path
    ) -> None:
        async with serving(house, *PAIR, disk_swap=True, swap_dir=tmp_path) as engine:
            await patiently(ask(engine, "one"))
            await patiently(ask(engine, "two"))
            house.on_batch = barrier = Barrier()
            busy = asyncio.create_task(ask(engine, "two"))
            await eventually(barrier.reached.is_set)
            loading = asyncio.create_task(engine.lifecycle.bring_to_device(engine.model("one")))
            leaver = asyncio.create_task(ask(engine, "one"))
            lane = engine.model("one").lane
            assert lane is not None
            await eventually(lambda: len(lane.queue) == 1)
            leaver.cancel()
            await eventually(lambda: len(lane.queue) == 0)
            barrier.opened.set()
            await patiently(asyncio.gather(busy, loading))


class TestStopping:
    @pytest.mark.parametrize("what", ["load", "warm up", "restore", "park"])
    async def test_everybody_is_answered_and_all_memory_given_back(
        self, house: House, tmp_path: Path, what: str
    ) -> None:
        """In the middle of each kind of move."""
        barrier = Barrier()
        async with serving(house, *PAIR, disk_swap=True, swap_dir=tmp_path) as engine:
            if what in ("restore", "park"):
                await patiently(ask(engine, "one"))
                if what == "restore":
                    await patiently(ask(engine, "two"))
            house.on_move = lambda name, move: barrier() if move == what else None
            names = ("two", "one") if what == "park" else ("one", "two")
            asked = [asyncio.ensure_future(ask(engine, name)) for name in names]
            await eventually(barrier.reached.is_set)
            stopping = asyncio.create_task(engine.stop())
            await asyncio.sleep(0.01)
            barrier.opened.set()
            await patiently(stopping)
            for answer in await patiently(asyncio.gather(*asked, return_exceptions=True)):
                assert answer is None or "stopping" in str(answer)
        house.check()

    async def test_later_requests_are_told(self, house: House) -> None:
        async with serving(house, *MODEL) as engine:
            await patiently(engine.stop())
            assert "stopping" in str(await raises_unavailable(ask(engine, "one")))


class TestReplicas:
    async def test_both_devices_serve_and_both_copies_are_unloaded(self) -> None:
        house = House({"cuda:0": SIZE, "cuda:1": SIZE}, devices=("cuda:0", "cuda:1"))
        async with serving(house, *MODEL) as engine:
            await patiently(ask(engine, "one"))
            await eventually(lambda: all(copy.is_here for copy in engine.model("one").copies))
            await patiently(asyncio.gather(*(ask(engine, "one", f"{n}") for n in range(50))))
            await patiently(engine.lifecycle.unload(engine.model("one")))
            house.check()
        assert len(house.backends) == 2

    async def test_the_further_copy_gives_way_to_another_model(self) -> None:
        house = House({"cuda:0": SIZE, "cuda:1": SIZE}, devices=("cuda:0", "cuda:1"))
        async with serving(house, *PAIR) as engine:
            for _ in range(3):
                await patiently(ask(engine, "one"))
                await patiently(ask(engine, "two"))
        house.check()
