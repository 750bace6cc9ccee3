# SPDX-License-Identifier: Apache-2.0
"""How long a model stays loaded, by the request."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from appliance.settings import ModelSettings, Settings
from tests.api.management import Asked, Fakes, act, assert_error, described, eventually, state_of
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import loading
from tests.unit.tickets import PATIENCE, Gate

MODELS = (
    ModelSettings(model="kept"),
    ModelSettings(model="brief", keep_alive=1000),
    ModelSettings(model="pinned", pinned=True),
    ModelSettings(model="never", keep_alive=0),
)
fakes = Fakes()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with run_in_thread(Settings(models=MODELS), loading(fakes)) as running:
        yield running


def embed(server: RunningServer, model: str, **fields: object) -> None:
    assert server.embed(model=model, input="a", **fields).status_code == 200


def unloaded(server: RunningServer, model: str) -> bool:
    return state_of(server, model) == "unloaded"


@pytest.mark.parametrize("model", ["kept", "brief"])
def test_0_unloads_at_once_and_holds_for_no_later_load(server: RunningServer, model: str) -> None:
    embed(server, model)
    before = len(fakes.made[model])
    embed(server, model, keep_alive=0)
    eventually(lambda: unloaded(server, model))
    assert fakes.made[model][-1].moves == ["close"]
    embed(server, model)
    assert len(fakes.made[model]) == before + 1
    setting = next(m.keep_alive for m in MODELS if m.name == model)
    assert described(server, model)["keep_alive"] == setting
    embed(server, model)
    assert len(fakes.made[model]) == before + 1


def test_a_model_that_is_never_kept_answers_whoever_waits_for_it(server: RunningServer) -> None:
    for _ in range(20):  # it has to be loaded each time, and must not go before it was asked
        embed(server, "never")
        assert act(server, "never", "load").status_code == 200


def test_seconds_hold_until_the_next_request_says_otherwise(server: RunningServer) -> None:
    embed(server, "kept", keep_alive=500.5)
    assert 0 < described(server, "kept")["expires_in"] <= 500.5
    embed(server, "kept")
    assert described(server, "kept")["keep_alive"] == 500.5
    embed(server, "kept", keep_alive=-1)
    assert described(server, "kept")["expires_in"] is None
    embed(server, "kept", keep_alive=1e300)  # a clock has its limits, too
    assert described(server, "kept")["state"] == "idle"
    embed(server, "kept", keep_alive=None)
    assert described(server, "kept")["keep_alive"] == 1e300
    embed(server, "kept", keep_alive=0.01)
    eventually(lambda: unloaded(server, "kept"))


def test_for_ever_beats_the_setting(server: RunningServer) -> None:
    embed(server, "brief", keep_alive=-1)
    assert described(server, "brief")["expires_in"] is None
    embed(server, "brief", keep_alive=7)
    assert described(server, "brief")["expires_in"] <= 7


def test_a_pinned_model_stays(server: RunningServer) -> None:
    embed(server, "pinned", keep_alive=0)
    assert described(server, "pinned")["keep_alive"] == -1
    embed(server, "pinned")
    assert len(fakes.made["pinned"]) == 1


def test_a_refused_request_decides_nothing(server: RunningServer) -> None:
    embed(server, "kept", keep_alive=-1)
    answer = server.embed(model="kept", input="a", dimensions=10**6, keep_alive=0)
    assert_error(answer, 400, "dimensions", "dimensions")
    assert described(server, "kept")["keep_alive"] == -1
    embed(server, "kept", keep_alive=0.01)  # as before


@pytest.mark.parametrize("value", [-2, -0.5, "5m", "0", True, [], {}, -1e300])
def test_what_is_no_time_is_refused(server: RunningServer, value: object) -> None:
    answer = server.embed(model="kept", input="a", keep_alive=value)
    assert_error(answer, 400, "'keep_alive' is invalid", "keep_alive")
    embed(server, "kept")


@pytest.mark.parametrize("written", ["NaN", "Infinity", "1e999"])
def test_what_is_no_number_is_refused(server: RunningServer, written: str) -> None:
    body = json.dumps({"model": "kept", "input": "a", "keep_alive": 7})
    answer = httpx.post(f"{server.url}/v1/embeddings", content=body.replace("7", written))
    assert answer.status_code == 400, answer.text
    embed(server, "kept")


def test_others_are_answered_before_a_model_goes() -> None:
    gate = Gate()
    with run_in_thread(load=loading(Fakes(before_forward=gate))) as server:
        first = Asked(lambda: server.embed(model="fake/model", input="a", keep_alive=0))
        assert gate.held.wait(PATIENCE)
        others = [Asked(lambda: server.embed(model="fake/model", input="b")) for _ in range(3)]
        eventually(lambda: described(server, "fake/model")["requests_in_progress"] == 4)
        gate.opened.set()
        assert [asked.answer().status_code for asked in (first, *others)] == [200] * 4
        eventually(lambda: unloaded(server, "fake/model"))
