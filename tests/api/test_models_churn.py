# SPDX-License-Identifier: Apache-2.0
"""Everything at once: models come and go, are moved and used, by several hands."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from appliance.settings import ModelSettings, Settings
from tests.api.management import Fakes, api, eventually, names_of
from tests.conftest import run_in_thread
from tests.fakes import loading

SIZES = {"cpu": 1000}
NAMES = [f"model-{number}" for number in range(4)]
HANDS, ACTS = 6, 60

# what is asked: answers that are right, whatever the others do in the meantime
ALLOWED = {
    "add": {201, 409},
    "remove": {200, 404},
    "load": {200, 404},
    "unload": {200, 404},
    "offload": {200, 404, 409},
    "embed": {200, 404},
    "status": {200},
}


def act(client: httpx.Client, what: str, name: str, choose: random.Random) -> httpx.Response:
    routes: dict[str, Callable[[], httpx.Response]] = {
        "add": lambda: client.post(
            "/api/models",
            json={
                "model": name,
                "eager": choose.random() < 0.5,
                "keep_alive": choose.choice([-1, 0.01]),
            },
        ),
        "remove": lambda: client.delete(f"/api/models/{name}"),
        "embed": lambda: client.post(
            "/v1/embeddings",
            json={"model": name, "input": ["a b", "c"], "keep_alive": choose.choice([None, 0, 9])},
        ),
        "status": lambda: client.get("/api/status"),
    }
    return routes.get(what, lambda: client.post(f"/api/models/{name}/{what}"))()


@pytest.mark.parametrize("disk_swap", [False, True])
def test_whatever_is_done_at_once_is_answered_and_nothing_is_left(disk_swap: bool) -> None:
    fakes = Fakes(sizes=SIZES, before_move=lambda _: time.sleep(0.002))
    settings = Settings(
        models=(ModelSettings(model="first"),),
        disk_swap=disk_swap,
        max_cuda_memory_gib=2500 / 2**30,  # two of them
        turn_seconds=0.01,
    )
    wrong: list[str] = []
    with run_in_thread(settings, loading(fakes, SIZES)) as server:

        def work(hand: int) -> None:
            choose = random.Random(hand)
            with httpx.Client(base_url=server.url, timeout=60) as client:
                for _ in range(ACTS):
                    what = choose.choice([*ALLOWED, "embed", "embed", "add"])
                    answer = act(client, what, choose.choice(NAMES), choose)
                    if answer.status_code not in ALLOWED[what]:
                        wrong.append(f"{what}: {answer.status_code} {answer.text}")

        hands = [threading.Thread(target=work, args=(hand,)) for hand in range(HANDS)]
        for hand in hands:
            hand.start()
        for hand in hands:
            hand.join()
        assert not wrong
        for name in names_of(server):
            assert api(server, "DELETE", f"models/{name}").status_code == 200
        assert server.engine is not None
        assert not server.engine.catalogue.leaving
        seen = api(server, "GET", "status").json()
        assert seen["models"] == []
        assert seen["resources"]["devices"]["cpu"]["used_bytes"] == 0
        backends = [backend for made in fakes.made.values() for backend in made]
        eventually(lambda: all(backend.moves[-1] == "close" for backend in backends))
