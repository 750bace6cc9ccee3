# SPDX-License-Identifier: Apache-2.0
"""``/api/config``: exported, checked, imported."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from appliance.cli import main
from appliance.settings import ModelSettings, Settings
from tests.api.access import KEY, ask, guarded
from tests.api.management import Fakes, add, api, assert_error, eventually, names_of
from tests.conftest import REAL_MODEL, RunningServer, run_in_thread, run_process
from tests.fakes import loading

MODELS = (ModelSettings(model="a", aliases=("x",)), ModelSettings(model="b", normalize=False))


def settings(folder: Path | None = None, **more: Any) -> Settings:
    return Settings(**{"models": MODELS, "data_dir": folder, **more})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with run_in_thread(settings(tmp_path)) as server:
        yield server


def exported(server: RunningServer) -> dict[str, Any]:
    answer = api(server, "GET", "config")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def put(server: RunningServer, values: Any) -> dict[str, Any]:
    answer = api(server, "PUT", "config", json=values)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def kept(folder: Path) -> Path:
    return folder / "config.json"


def test_an_export_has_the_models_that_are_served_now(server: RunningServer) -> None:
    add(server, "new", pooling="cls")
    api(server, "DELETE", "models/b")
    found = exported(server)
    assert [model["name"] for model in found["models"]] == ["a", "new"]
    assert found["models"][1]["pooling"] == "cls"
    assert found["secrets_omitted"] == []


def test_an_export_can_be_had_as_a_file(tmp_path: Path) -> None:
    with run_in_thread(settings(name='my "one"')) as server:
        assert "content-disposition" not in api(server, "GET", "config").headers
        answer = api(server, "GET", "config?download=1")
        assert answer.headers["content-disposition"] == 'attachment; filename="my_one_.json"'
        assert answer.json()["name"] == 'my "one"'
        assert_error(api(server, "GET", "config?download=x"), 400, "Expected `bool`", "download")
        assert_error(api(server, "GET", "config?as=1"), 400, "Known are download", "as")


def test_no_secret_is_told(tmp_path: Path) -> None:
    secrets = {"hf_token": "planted-token", "environment": {"MY_TOKEN": "planted", "A": "b"}}
    with run_in_thread(guarded(tmp_path, **secrets)) as server:
        answers = [ask(server, KEY, "GET", f"/api/config{path}") for path in ("", "/schema")]
    assert answers[0].json()["secrets_omitted"] == ["api_keys", "hf_token", "environment.MY_TOKEN"]
    assert answers[1].json()["values"]["environment"] == {"A": "b"}
    assert not [answer.text for answer in answers if "planted" in answer.text]


def test_the_schema_knows_the_values_and_where_they_come_from(server: RunningServer) -> None:
    found = api(server, "GET", "config/schema").json()
    jsonschema.Draft202012Validator.check_schema(found["schema"])
    assert "dtype" in found["schema"]["$defs"]["ModelSettings"]["properties"]
    assert found["values"]["port"] == 8080
    assert [model["name"] for model in found["values"]["models"]] == ["a", "b"]
    assert not set(found["values"]) & set(found["secrets"])
    assert found["secrets"] == ["api_keys", "database_url", "hf_token"]
    assert found["sources"] == {"models": "file", "data_dir": "file"}
    assert found["keeps"] is True


def test_a_check_tells_every_fault_and_changes_nothing(
    server: RunningServer, tmp_path: Path
) -> None:
    values = {"port": -1, "models": [{"model": "a", "dtype": "int4"}], "api_keys": ["planted"]}
    answer = api(server, "POST", "config/check", json=values)
    assert answer.status_code == 200
    params = [fault["param"] for fault in answer.json()["faults"]]
    assert sorted(params) == ["api_keys", "models.0.dtype", "port"]
    assert "planted" not in answer.text
    answer = api(server, "POST", "config/check", json=exported(server))
    assert answer.json() == {"faults": []}
    assert not kept(tmp_path).exists()


def test_an_export_put_back_changes_nothing(tmp_path: Path) -> None:
    fakes = Fakes()
    with run_in_thread(settings(tmp_path), loading(fakes)) as server:
        assert put(server, exported(server)) == {"applied": [], "at_restart": [], "overridden": {}}
        assert names_of(server) == ["a", "b"]
    assert {name: len(made) for name, made in fakes.made.items()} == {"a": 1, "b": 1}
    assert stat.S_IMODE(kept(tmp_path).stat().st_mode) == 0o600


def test_models_that_flags_name_stay_and_so_does_what_was_added(tmp_path: Path) -> None:
    model = json.dumps({"model": f"embedded:{REAL_MODEL}", "eager": False})
    with run_process("--data-dir", str(tmp_path), "--models", model) as server:
        add(server, f"embedded:{REAL_MODEL}", name="added", eager=False, persist=True)
        values = {"drain_timeout_seconds": 3, "models": [f"embedded:{REAL_MODEL}"]}
        assert put(server, values) == {
            "applied": [],
            "at_restart": ["drain_timeout_seconds"],
            "overridden": {"models": "flags"},
        }
        assert names_of(server) == [REAL_MODEL, "added"]
    with run_process("--data-dir", str(tmp_path), "--models", model) as server:
        assert names_of(server) == [REAL_MODEL, "added"]
        assert exported(server)["drain_timeout_seconds"] == 3


def test_models_change_at_once_and_the_rest_at_the_next_start(tmp_path: Path) -> None:
    fakes = Fakes()
    with run_in_thread(settings(tmp_path), loading(fakes)) as server:
        values = {
            "drain_timeout_seconds": 3,
            "data_dir": "/elsewhere",
            "models": [{"model": "b"}, "c", {"model": "a", "aliases": ["x"]}],
        }
        assert put(server, values) == {
            "applied": ["models"],
            "at_restart": ["drain_timeout_seconds"],
            "overridden": {"data_dir": "file"},
        }
        assert names_of(server) == ["b", "c", "a"]
        assert api(server, "GET", "models/b").json()["settings"] == {"model": "b", "name": "b"}
        for name in ("b", "c", "x"):
            eventually(lambda name=name: server.embed(model=name, input="t").status_code == 200)
        assert {name: len(made) for name, made in fakes.made.items()} == {"a": 1, "b": 2, "c": 1}
        eventually(lambda: fakes.made["b"][0].is_released)
        assert "data_dir" not in json.loads(kept(tmp_path).read_text())


def test_an_import_takes_the_place_of_what_was_added_and_removed(tmp_path: Path) -> None:
    with run_in_thread(settings(tmp_path)) as server:
        add(server, "added", persist=True)
        api(server, "DELETE", "models/b?persist=true")
        put(server, {"models": ["b", "c"]})
        assert names_of(server) == ["b", "c"]
        assert not (tmp_path / "models.json").exists()
        api(server, "DELETE", "models/c?persist=true")
    written = json.loads((tmp_path / "models.json").read_text())
    assert written == {"models": [], "removed": ["c"]}, "on top of the imported configuration"


BAD: dict[str, tuple[Any, str | None, str]] = {
    "a bad value": ({"port": "x"}, "port", "port: Input should be a valid integer"),
    "two faults": ({"port": "x", "prot": 1}, "port", "; prot: there is no such setting"),
    "a model's": ({"models": ["a", {"model": "b", "pooling": "z"}]}, "models.1.pooling", "'cls'"),
    "no models": ({"models": []}, "models", "at least 1 item"),
    "two of a name": ({"models": ["a", "a"]}, "settings", "two models answer to 'a'"),
    "a secret": ({"hf_token": "planted"}, "hf_token", "set APPLIANCE_HF_TOKEN"),
    "a missing secret": ({"secrets_omitted": ["hf_token"]}, "secrets_omitted", "leaves out"),
    "a contradiction": ({"automatic_cpu_offload": True, "disk_swap": True}, "settings", "both on"),
    "a list": ([], None, "Expected `object`"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_configuration_changes_nothing(
    case: str, server: RunningServer, tmp_path: Path
) -> None:
    values, param, message = BAD[case]
    answer = api(server, "PUT", "config", json=values)
    assert_error(answer, 400, message, param)
    assert "planted" not in answer.text
    assert names_of(server) == ["a", "b"]
    assert not kept(tmp_path).exists()


def test_without_a_folder_nothing_can_be_imported() -> None:
    with run_in_thread(settings()) as server:
        answer = api(server, "PUT", "config", json={"models": ["c"]})
        assert_error(answer, 409, "start it with data_dir set", "data_dir")
        assert names_of(server) == ["a", "b"]
        assert api(server, "GET", "config/schema").json()["keeps"] is False


def test_nothing_changes_where_nothing_can_be_written(tmp_path: Path) -> None:
    with run_in_thread(settings(tmp_path)) as server:
        (tmp_path / "config.json").mkdir()
        (tmp_path / "config.json" / "in the way").touch()
        answer = api(server, "PUT", "config", json={"models": ["c"]})
        assert_error(answer, 500, "Nothing has changed")
        assert names_of(server) == ["a", "b"]


def test_an_export_of_a_running_instance_is_printed(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    add(server, "new")
    assert main(["config", "export", "--base-url", f"{server.url}/v1"]) == 0
    assert json.loads(capsys.readouterr().out) == exported(server)
    assert main(["config", "export", "--base-url", "http://127.0.0.1:1"]) == 1
    assert "no server answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"port": "x"}, "port", "port: Input should be a valid integer"),
        ({"prot": 1}, "prot", "there is no such setting"),
        ({"models.7.dtype": "float16"}, "models.7.dtype", "there is no models.7.dtype"),
        ({"models.0.name": "b", "port": 1}, "settings", "two models answer to 'b'"),
        ({"hf_token": "planted"}, "hf_token", "a configuration holds no secrets"),
        ({"environment.MY_TOKEN": "planted"}, "environment.MY_TOKEN", "holds no secrets"),
        ({"models": None}, None, ""),
        ({"models.1": None, "project": None}, None, ""),
    ],
)
def test_a_clone_over_http_has_the_changes_or_tells_what_is_wrong(
    changes: dict[str, Any], param: str | None, message: str, server: RunningServer
) -> None:
    answer = api(server, "POST", "config/clone", json=changes)
    if message:
        assert_error(answer, 400, message, param)
        assert "planted" not in answer.text
        return
    found = answer.json()
    assert [model["name"] for model in found.pop("models", [])] in ([], ["a"])
    assert found == {name: v for name, v in exported(server).items() if name != "models"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("port", "write NAME=VALUE"),
        ("=1", "write NAME=VALUE"),
        ("port=x", "port: Input should be a valid integer"),
        ("prot=1", "prot: there is no such setting"),
        ("models.7.dtype=float16", "there is no models.7.dtype"),
        ("port.x=1", "there is no port.x"),
        ("hf_token=planted", "hf_token: a configuration holds no secrets"),
    ],
)
def test_a_bad_change_of_a_clone_is_told(
    change: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "clone", "--set", change]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_a_clone_of_the_settings_has_the_changes(capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--set", "port=9", "--set", 'models.0.aliases=["n"]', "--set", "name=my clone"]
    assert main(["config", "clone", "--project", "p", *changes]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["port"], found["name"], found["project"]) == (9, "my clone", "p")
    assert found["models"][0]["aliases"] == ["n"]
