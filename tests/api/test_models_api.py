# SPDX-License-Identifier: Apache-2.0
"""Models added, removed, loaded and put away while the server runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from appliance.errors import ModelUnavailable
from appliance.settings import ModelSettings, Settings
from tests.api.management import (
    Asked,
    Fakes,
    act,
    add,
    api,
    assert_error,
    described,
    eventually,
    names_of,
    state_of,
)
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import loading
from tests.unit.tickets import PATIENCE, Gate

FIRST = ModelSettings(model="team/first", aliases=("one",))


def settings(*models: ModelSettings, **more: Any) -> Settings:
    return Settings(models=models or (FIRST,), **more)


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with run_in_thread(settings()) as running:
        yield running


def embeds(server: RunningServer, name: str) -> bool:
    return server.embed(model=name, input="a").status_code == 200


def test_models_are_listed_and_found_by_name_and_alias(server: RunningServer) -> None:
    (listed,) = api(server, "GET", "models").json()["models"]
    assert listed["name"] == "team/first"
    assert listed["endpoint"] == "/team/first/v1/embeddings"
    assert listed["settings"] == {
        "model": "team/first",
        "name": "team/first",
        "aliases": ["one"],
    }
    assert described(server, "one") == described(server, "team/first") == listed
    path = server.url + listed["endpoint"]
    assert httpx.post(path, json={"input": "a"}).status_code == 200


def test_an_added_model_is_served_as_any_other(server: RunningServer) -> None:
    answer = add(server, "team/second", aliases=["two"], normalize=False)
    assert answer.status_code == 201
    assert answer.headers["location"] == "/api/models/team/second"
    assert answer.json()["persisted"] is False
    listed = [model["id"] for model in httpx.get(f"{server.url}/v1/models").json()["data"]]
    assert listed == names_of(server) == ["team/first", "team/second"]
    assert embeds(server, "two")
    assert httpx.post(f"{server.url}/two/v1/embeddings", json={"input": "a"}).status_code == 200


def test_an_added_model_loads_behind_the_answer_and_leaves_the_server_healthy() -> None:
    gate = threading.Event()
    fakes = Fakes(lambda model: model.name == "first" or gate.wait(PATIENCE))
    with run_in_thread(settings(ModelSettings(model="first")), loading(fakes)) as server:
        assert add(server, "second").json()["state"] == "loading"
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert embeds(server, "first")
        waiting = Asked(lambda: server.embed(model="second", input="a"))
        assert state_of(server, "second") == "loading"
        gate.set()
        assert waiting.answer().status_code == 200
        assert state_of(server, "second") == "idle"


def test_a_model_that_is_not_eager_waits_for_its_first_request(server: RunningServer) -> None:
    assert add(server, "lazy", eager=False).json()["state"] == "unloaded"
    assert embeds(server, "lazy")
    assert state_of(server, "lazy") == "idle"


# fields of the body: param, part of the message
REFUSED: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "no model": ({"name": "x"}, "model", "model: Field required"),
    "an unknown field": ({"model": "x", "poling": "cls"}, "poling", "there is no such setting"),
    "a bad value": ({"model": "x", "pooling": "best"}, "pooling", "'mean'"),
    "a bad type": ({"model": "x", "replicas": "many"}, "replicas", "valid integer"),
    "several faults": (
        {"model": "x", "pooling": "best", "dtype": "int4"},
        "dtype",
        "; pooling: Input should be",
    ),
    "a contradiction": ({"model": "x", "pinned": True, "keep_alive": 3}, None, "pinned keeps"),
    "a name for no URL": ({"model": "x", "name": "a?b"}, None, "cannot stand in a URL"),
    "keep_alive below 0": ({"model": "x", "keep_alive": -2}, "keep_alive", "-1 for ever"),
    "persist is a word": ({"model": "x", "persist": "yes"}, "persist", "true or false"),
    "no data_dir": ({"model": "x", "persist": True}, "persist", "data_dir"),
    "a name twice": ({"model": "x", "aliases": ["y", "y"]}, "aliases", "there twice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_settings_are_refused(fake_server: RunningServer, case: str) -> None:
    fields, param, message = REFUSED[case]
    answer = api(fake_server, "POST", "models", json=fields)
    assert_error(answer, 400, message, param)
    assert "x" not in names_of(fake_server)
    assert add(fake_server, "good").status_code == 201
    assert api(fake_server, "DELETE", "models/good").status_code == 200


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "could not parse"), (b"[]", "Expected `object`"), (b'"x"', "Expected `object`")],
)
def test_a_body_that_is_no_object(fake_server: RunningServer, content: bytes, message: str) -> None:
    assert_error(api(fake_server, "POST", "models", content=content), 400, message)


def test_a_body_that_is_far_too_large(fake_server: RunningServer) -> None:
    answer = add(fake_server, "x", prompts={"query": "a" * 1_000_000})
    assert_error(answer, 413, "1000000 bytes")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "fake/model"}, "name"),
        ({"model": "x", "name": "text-embedding-3-small"}, "name"),
        ({"model": "x", "aliases": ["new", "other"]}, "aliases"),
    ],
)
def test_a_name_that_is_taken(
    fake_server: RunningServer, fields: dict[str, Any], param: str
) -> None:
    assert_error(api(fake_server, "POST", "models", json=fields), 409, "answers to", param)
    assert names_of(fake_server) == ["fake/model", "other"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "models/absent"),
        ("DELETE", "models/team/absent"),
        ("POST", "models/absent/load"),
        ("POST", "models/absent/offload"),
        ("POST", "models/team/absent/unload"),
    ],
)
def test_a_model_that_is_not_there(fake_server: RunningServer, method: str, path: str) -> None:
    assert_error(api(fake_server, method, path), 404, "does not exist", "model")


def test_a_method_that_is_not_served(fake_server: RunningServer) -> None:
    answer = api(fake_server, "GET", "models/other/load/now")
    assert answer.status_code == 404
    answer = api(fake_server, "DELETE", "models")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, POST"


def test_every_route_asks_for_a_key() -> None:
    routes = [
        ("GET", "models"),
        ("POST", "models"),
        ("GET", "models/one"),
        ("DELETE", "models/one"),
        ("POST", "models/one/load"),
        ("POST", "models/one/offload"),
        ("POST", "models/team/first/unload"),
        ("GET", "status"),
    ]
    with run_in_thread(settings(api_keys=("hush",))) as server:
        for method, path in routes:
            assert_error(api(server, method, path), 401, "Missing bearer")
            wrong = api(server, method, path, headers={"authorization": "Bearer no"})
            assert_error(wrong, 401, "Incorrect API key")
        for path in ("models", "status"):
            key = {"authorization": "Bearer hush"}
            assert api(server, "GET", path, headers=key).status_code == 200


def test_a_removed_model_is_gone_and_its_memory_given_back() -> None:
    fakes = Fakes()
    with run_in_thread(load=loading(fakes)) as server:
        add(server, "second", aliases=["two"])
        assert embeds(server, "two")
        answer = api(server, "DELETE", "models/two")
        assert (answer.status_code, answer.json()["state"]) == (200, "unloaded")
        assert fakes.made["second"][0].moves == ["close"]
        for name in ("second", "two"):
            assert_error(server.embed(model=name, input="a"), 404, "does not exist", "model")
            assert api(server, "GET", f"models/{name}").status_code == 404
        listed = httpx.get(f"{server.url}/v1/models").json()["data"]
        assert [model["id"] for model in listed] == ["fake/model"]
        assert embeds(server, "fake/model")
        assert add(server, "second").status_code == 201
        assert embeds(server, "second")


def test_the_last_model_can_go_and_another_come(server: RunningServer) -> None:
    assert api(server, "DELETE", "models/one").status_code == 200
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert_error(server.embed(model="one", input="a"), 404, "Served here: none", "model")
    assert add(server, "another", aliases=["one"]).status_code == 201
    assert embeds(server, "one")


@pytest.mark.parametrize("query", ["persist=maybe", "persit=true"])
def test_a_bad_query_removes_nothing(server: RunningServer, query: str) -> None:
    param = query.partition("=")[0]
    assert_error(api(server, "DELETE", f"models/one?{query}"), 400, param, param)
    assert_error(api(server, "DELETE", "models/one?persist=true"), 400, "data_dir", "persist")
    assert embeds(server, "one")


def test_what_a_removed_model_had_accepted_is_answered_first() -> None:
    gate = Gate()
    fakes = Fakes(before_forward=gate)
    with run_in_thread(settings(), loading(fakes)) as server:
        accepted = Asked(lambda: server.embed(model="one", input="a"))
        assert gate.held.wait(PATIENCE)
        removal = Asked(lambda: api(server, "DELETE", "models/one"))
        eventually(lambda: not names_of(server))
        assert api(server, "GET", "status").json()["instance"]["state"] == "active"
        assert server.embed(model="one", input="a").status_code == 404
        assert removal.is_open
        gate.opened.set()
        assert accepted.answer().status_code == 200
        assert removal.answer().status_code == 200
        assert fakes.made["team/first"][0].moves == ["close"]


def test_a_model_may_be_removed_while_it_loads() -> None:
    gate = threading.Event()
    fakes = Fakes(lambda model: model.name == "first" or gate.wait(PATIENCE))
    first = ModelSettings(model="first")
    with run_in_thread(settings(first, model_wait_seconds=0.1), loading(fakes)) as server:
        add(server, "second")
        answer = api(server, "DELETE", "models/second")
        assert (answer.status_code, answer.json()["state"]) == (202, "loading")
        assert names_of(server) == ["first"]
        gate.set()
        eventually(lambda: "second" in fakes.made and fakes.made["second"][0].moves == ["close"])
        assert len(fakes.made["second"]) == 1


def test_an_unloaded_model_is_loaded_again_when_it_is_asked_for() -> None:
    fakes = Fakes()
    with run_in_thread(settings(), loading(fakes)) as server:
        for action in ("unload", "unload"):  # the second changes nothing
            answer = act(server, "team/first", action)
            assert (answer.status_code, answer.json()["state"]) == (200, "unloaded")
        assert fakes.made["team/first"][0].moves == ["close"]
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert embeds(server, "one")
        assert len(fakes.made["team/first"]) == 2
        assert state_of(server, "one") == "idle"


def test_an_unload_waits_for_what_was_accepted() -> None:
    gate = Gate()
    with run_in_thread(settings(), loading(Fakes(before_forward=gate))) as server:
        accepted = Asked(lambda: server.embed(model="one", input="a"))
        assert gate.held.wait(PATIENCE)
        unload = Asked(lambda: act(server, "one", "unload"))
        assert state_of(server, "one") == "active"
        assert unload.is_open
        gate.opened.set()
        assert accepted.answer().status_code == 200
        assert unload.answer().json()["tier"] == "none"


def test_a_model_that_loads_is_not_unloaded_in_between() -> None:
    gate = threading.Event()
    fakes = Fakes(lambda model: model.name == "first" or gate.wait(PATIENCE))
    first = ModelSettings(model="first")
    with run_in_thread(settings(first, model_wait_seconds=0.1), loading(fakes)) as server:
        add(server, "second")
        for action in ("unload", "load", "offload"):
            answer = act(server, "second", action)
            assert_error(answer, 503, "still loading")
            assert answer.headers["retry-after"] == "5"
        gate.set()
        eventually(lambda: state_of(server, "second") == "idle")
        assert act(server, "second", "unload").json()["state"] == "unloaded"


def test_weights_are_put_away_and_brought_back() -> None:
    fakes = Fakes(sizes={"cpu": 1000})
    with run_in_thread(settings(disk_swap=True), loading(fakes, {"cpu": 1000})) as server:
        assert described(server, "one")["bytes"]["devices"] == {"cpu": 1000}
        for _ in range(2):  # the second changes nothing
            offloaded = act(server, "one", "offload").json()
            assert (offloaded["state"], offloaded["tier"]) == ("swapped", "disk")
            assert offloaded["bytes"] == {"devices": {"cpu": 0}, "host": 0, "disk": 1000}
        assert httpx.get(f"{server.url}/health").status_code == 200
        loaded = act(server, "team/first", "load").json()
        assert (loaded["state"], loaded["tier"]) == ("idle", "device")
        act(server, "one", "offload")
        assert embeds(server, "one")
        assert fakes.made["team/first"][0].moves == ["park", "restore"] * 2


@pytest.mark.parametrize(
    ("more", "message"),
    [({}, "automatic_cpu_offload"), ({"automatic_cpu_offload": True}, "disk_swap")],
)
def test_without_a_place_for_them_weights_are_not_put_away(
    more: dict[str, Any], message: str
) -> None:
    with run_in_thread(settings(**more)) as server:
        assert_error(act(server, "one", "offload"), 409, message)
        assert state_of(server, "one") == "idle"
        act(server, "one", "unload")
        assert_error(act(server, "one", "offload"), 409, "not loaded")
        assert embeds(server, "one")


def test_a_model_that_stays_in_use_is_not_put_away() -> None:
    gate = Gate()
    fakes = Fakes(before_forward=gate)
    more = {"disk_swap": True, "model_wait_seconds": 0.1}
    with run_in_thread(settings(**more), loading(fakes)) as server:
        accepted = Asked(lambda: server.embed(model="one", input="a"))
        assert gate.held.wait(PATIENCE)
        answer = act(server, "one", "offload")
        assert_error(answer, 409, "stays in use")
        assert answer.headers["retry-after"] == "1"
        gate.opened.set()
        assert accepted.answer().status_code == 200
        assert state_of(server, "one") == "idle"
        assert fakes.made["team/first"][0].moves == []


def test_a_model_that_cannot_be_loaded_says_why_and_when_to_ask_again() -> None:
    def refuse(model: ModelSettings) -> None:
        if model.name == "broken":
            raise ModelUnavailable("its files are in tatters")

    with run_in_thread(settings(), loading(Fakes(refuse))) as server:
        assert add(server, "broken").status_code == 201
        answer = act(server, "broken", "load")
        assert_error(answer, 503, "in tatters")
        assert 1 <= int(answer.headers["retry-after"]) <= 10
        found = described(server, "broken")
        assert (found["state"], found["tier"]) == ("failed", "none")
        assert found["reason"] == "its files are in tatters"
        assert 0 < found["retry_after"] <= 10
        assert embeds(server, "one")
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert api(server, "DELETE", "models/broken").status_code == 200
        assert names_of(server) == ["team/first"]


def test_an_added_model_may_take_larger_bodies_than_those_before_it() -> None:
    small = ModelSettings(model="small", payload_limit=1000)
    with run_in_thread(settings(small)) as server:
        text = "a" * 2000
        assert server.embed(model="small", input=text).status_code == 413
        add(server, "large", payload_limit=5000)
        assert server.embed(model="large", input=text).status_code == 200
        assert server.embed(model="small", input=text).status_code == 413
        api(server, "DELETE", "models/large")
        assert embeds(server, "small")
