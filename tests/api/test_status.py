# SPDX-License-Identifier: Apache-2.0
"""What those who watch an instance see of it."""

from __future__ import annotations

import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psutil

from appliance import __version__
from appliance.settings import ModelSettings, Settings
from tests.api.management import Asked, Fakes, act, add, api, described, eventually
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import loading
from tests.unit.tickets import PATIENCE, Gate

SIZES = {"cpu": 1000}


def status(server: RunningServer) -> dict[str, Any]:
    answer = api(server, "GET", "status")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def model_status(server: RunningServer, name: str) -> dict[str, Any]:
    (found,) = [model for model in status(server)["models"] if model["name"] == name]
    return dict(found)


def settings(*models: ModelSettings, **more: Any) -> Settings:
    return Settings(models=models or (ModelSettings(model="fake/model"),), **more)


def test_the_instance_says_who_and_how_it_is() -> None:
    with run_in_thread(settings(name="search", project="shop")) as server:
        first = status(server)["instance"]
        assert (first["name"], first["project"]) == ("search", "shop")
        assert first["version"] == __version__
        assert first["state"] == "idle"
        assert first["health"] == "ok"
        second = status(server)["instance"]
        assert uuid.UUID(first["session_id"]) == uuid.UUID(second["session_id"])
        assert first["started"] == second["started"]
        assert 0 < first["uptime_seconds"] < second["uptime_seconds"]
        assert first["idle_seconds"] < second["idle_seconds"]
        server.embed(model="fake/model", input="a")
        after = status(server)["instance"]
        assert after["idle_seconds"] < second["uptime_seconds"]
        assert moment(after["last_action"]) > moment(second["last_action"])
    with run_in_thread(settings()) as server:
        again = status(server)["instance"]
        assert again["session_id"] != first["session_id"]
        assert (again["name"], again["project"]) == ("appliance", None)


def moment(written: str) -> datetime:
    read = datetime.fromisoformat(written)
    assert read.utcoffset() == timedelta(0)
    return read


def test_the_instances_state_follows_what_it_does() -> None:
    loaded, gate = threading.Event(), Gate()
    fakes = Fakes(lambda _: loaded.wait(PATIENCE), before_forward=gate)
    with run_in_thread(settings(), loading(fakes), wait=False) as server:
        assert status(server)["instance"]["state"] == "loading"
        assert model_status(server, "fake/model")["state"] == "loading"
        loaded.set()
        eventually(lambda: status(server)["instance"]["state"] == "idle")
        asked = Asked(lambda: server.embed(model="fake/model", input="a"))
        assert gate.held.wait(PATIENCE)
        seen = status(server)["instance"]
        assert (seen["state"], seen["idle_seconds"]) == ("active", 0)
        gate.opened.set()
        asked.answer()
        assert server.engine is not None
        server.engine.draining = True
        assert status(server)["instance"]["state"] == "stopping"


def test_a_models_counts() -> None:
    gate = Gate()
    with run_in_thread(settings(cpu_workers=1), loading(Fakes(before_forward=gate))) as server:
        before = model_status(server, "fake/model")
        assert (before["requests_answered"], before["tokens"], before["last_used"]) == (0, 0, None)
        first = Asked(lambda: server.embed(model="fake/model", input="one two"))
        assert gate.held.wait(PATIENCE)
        second = Asked(lambda: server.embed(model="fake/model", input=["one", "two three"]))
        eventually(lambda: model_status(server, "fake/model")["queue_depth"] == 1)
        seen = model_status(server, "fake/model")
        assert seen["queue_tokens"] == 3 + 4
        assert (seen["state"], seen["requests_in_progress"]) == ("active", 2)
        gate.opened.set()
        assert first.answer().status_code == second.answer().status_code == 200
        after = model_status(server, "fake/model")
        assert (after["queue_depth"], after["requests_in_progress"]) == (0, 0)
        assert (after["requests_answered"], after["tokens"]) == (2, 11)
        assert datetime.now(UTC) - moment(after["last_used"]) < timedelta(minutes=1)


def test_settings_of_note_are_told() -> None:
    model = ModelSettings(
        model="a/b", aliases=("c",), dtype="float16", quantization="int8", pinned=True, eager=False
    )
    with run_in_thread(settings(model)) as server:
        found = model_status(server, "a/b")
        told = ("aliases", "dtype", "quantization", "pinned", "eager", "endpoint", "keep_alive")
        assert [found[name] for name in told] == [
            ["c"],
            "float16",
            "int8",
            True,
            False,
            "/a/b/v1/embeddings",
            -1,
        ]


def test_memory_is_told_by_tier_and_device_and_moves_are_counted() -> None:
    models = (ModelSettings(model="one"), ModelSettings(model="two"))
    budget = settings(*models, disk_swap=True, max_cuda_memory_gib=1500 / 2**30)
    with run_in_thread(budget, loading(Fakes(sizes=SIZES), SIZES)) as server:
        for name in ("one", "two", "one"):  # there is room for one of them
            assert server.embed(model=name, input="a").status_code == 200
            assert model_status(server, name)["tier"] == "device"
        eventually(lambda: model_status(server, "two")["state"] == "swapped")
        seen = status(server)
        one, two = seen["models"]
        assert (one["bytes"]["devices"], two["bytes"]["devices"]) == ({"cpu": 1000}, {"cpu": 0})
        assert two["bytes"]["disk"] == 1000
        resources = seen["resources"]
        assert resources["devices"] == {"cpu": {"capacity_bytes": 1500, "used_bytes": 1000}}
        assert resources["disk_bytes"] == one["bytes"]["disk"] + two["bytes"]["disk"]
        assert 0 < resources["rss_bytes"] < psutil.virtual_memory().total
        assert resources["cpu_count"] >= 1
        moves = {(move["from"], move["to"]): move for move in seen["swaps"]}
        assert moves["none", "device"]["times"] == 2
        assert moves["device", "disk"]["times"] >= 2
        assert moves["disk", "device"]["bytes"] == 1000 * moves["disk", "device"]["times"]
        for move in moves.values():
            assert 0 < move["longest_seconds"] <= move["seconds"]
        assert one["swaps"] + two["swaps"] == sum(move["times"] for move in moves.values())


def test_to_look_wakes_no_model_and_keeps_none() -> None:
    fakes = Fakes(sizes=SIZES)
    models = (
        ModelSettings(model="parked"),
        ModelSettings(model="lazy", eager=False),
        ModelSettings(model="brief", keep_alive=1000),
    )
    with run_in_thread(settings(*models, disk_swap=True), loading(fakes, SIZES)) as server:
        assert act(server, "parked", "offload").status_code == 200
        assert server.embed(model="brief", input="a").status_code == 200
        assert server.engine is not None
        expires = server.engine.model("brief").expires
        action, used = server.engine.last_action, model_status(server, "brief")["last_used"]
        left = []
        for path in ("status", "models", "models/parked", "models/lazy", "models/brief"):
            assert api(server, "GET", path).status_code == 200
            assert httpx.get(f"{server.url}/health").status_code == 200
            left.append(model_status(server, "brief")["expires_in"])
        assert left == sorted(left, reverse=True)
        assert 0 < left[-1] < left[0] <= 1000
        assert server.engine.model("brief").expires == expires
        assert server.engine.last_action == action
        states = {model["name"]: model["state"] for model in status(server)["models"]}
        assert states == {"parked": "swapped", "lazy": "unloaded", "brief": "idle"}
        assert fakes.made["parked"][0].moves == ["park"]
        assert "lazy" not in fakes.made
        assert model_status(server, "brief")["last_used"] == used


def test_a_failed_model_tells_its_reason() -> None:
    def refuse(model: ModelSettings) -> None:
        if model.name == "broken":
            raise ValueError("torn")

    with run_in_thread(settings(), loading(Fakes(refuse))) as server:
        add(server, "broken")
        eventually(lambda: described(server, "broken")["state"] == "failed")
        found = model_status(server, "broken")
        assert found["reason"] == "ValueError: torn"
        assert 0 < found["retry_after"] <= 10
        assert model_status(server, "fake/model")["reason"] is None
        assert status(server)["instance"]["health"] == "ok"
