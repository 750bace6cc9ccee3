# SPDX-License-Identifier: Apache-2.0
"""``appliance models`` beside a server that runs."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli import main
from appliance.errors import ModelUnavailable
from appliance.settings import ModelSettings, Settings
from tests.api.management import Fakes, add, state_of
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import loading

Output = pytest.CaptureFixture[str]


@pytest.fixture
def server() -> Iterator[RunningServer]:
    models = (ModelSettings(model="team/first", aliases=("one",)), ModelSettings(model="[red]"))
    fakes = Fakes(sizes={"cpu": 3 * 2**20})
    with run_in_thread(Settings(models=models), loading(fakes)) as running:
        yield running


def test_the_models_are_listed(server: RunningServer, capsys: Output) -> None:
    server.embed(model="one", input="a b")
    assert main(["models", "list", "--base-url", server.url]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "team/first" in line]
    assert line.split()[:9] == ["team/first", "idle", "device", "3.0", "0.0", "0.0", "0", "1", "4"]
    (line,) = [line for line in lines if "[red]" in line]
    assert line.split()[-1] == "never"


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_answer_itself(server: RunningServer, suffix: str, capsys: Output) -> None:
    assert main(["models", "list", "--json", "--base-url", server.url + suffix]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert [model["name"] for model in models] == ["team/first", "[red]"]


def test_the_server_of_the_settings_is_asked(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output
) -> None:
    port = server.url.rpartition(":")[2]
    monkeypatch.setenv("APPLIANCE_PORT", port)
    monkeypatch.setenv("APPLIANCE_HOST", "0.0.0.0")
    assert main(["models", "list"]) == 0
    assert "team/first" in capsys.readouterr().out
    monkeypatch.delenv("APPLIANCE_PORT")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"port": int(port)}))
    assert main(["models", "list", "--config", str(config)]) == 0


def test_a_model_is_unloaded_and_loaded(server: RunningServer, capsys: Output) -> None:
    assert main(["models", "unload", "team/first", "--base-url", server.url]) == 0
    assert "unloaded" in capsys.readouterr().out
    assert state_of(server, "one") == "unloaded"
    assert main(["models", "load", "one", "--base-url", server.url]) == 0
    assert state_of(server, "one") == "idle"


def test_a_refusal_is_told(server: RunningServer, capsys: Output) -> None:
    assert main(["models", "offload", "one", "--base-url", server.url]) == 1
    assert "disk_swap" in capsys.readouterr().err
    assert main(["models", "load", "absent", "--base-url", server.url]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "'absent' does not exist" in err


def test_why_a_model_failed_is_told(capsys: Output) -> None:
    def refuse(model: ModelSettings) -> None:
        if model.name == "broken":
            raise ModelUnavailable("its files are in tatters")

    with run_in_thread(load=loading(Fakes(refuse))) as server:
        add(server, "broken")
        assert main(["models", "load", "broken", "--base-url", server.url]) == 1
        capsys.readouterr()
        assert main(["models", "list", "--base-url", server.url]) == 0
        assert "broken: its files are in tatters" in capsys.readouterr().out


def test_a_key_is_sent(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    settings = Settings(models=(ModelSettings(model="fake/model"),), api_keys=("hush",))
    with run_in_thread(settings) as server:
        list_models = ["models", "list", "--base-url", server.url]
        assert main(list_models) == 1
        assert "Missing bearer authentication" in capsys.readouterr().err
        assert main([*list_models, "--api-key", "wrong"]) == 1
        assert main([*list_models, "--api-key", "hush"]) == 0
        monkeypatch.setenv("APPLIANCE_API_KEYS", "hush,other")
        assert main(list_models) == 0


def test_no_server_at_all(capsys: Output) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    for base in (url, "nonsense", "http://"):
        assert main(["models", "list", "--base-url", base]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "no server answers" in err
        assert "--base-url" in err


def test_another_kind_of_server(server: RunningServer, capsys: Output) -> None:
    assert main(["models", "list", "--base-url", f"{server.url}/elsewhere"]) == 1
    assert "Invalid URL" in capsys.readouterr().err


def test_bad_settings_end_with_2(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setenv("APPLIANCE_PORT", "x")
    assert main(["models", "list"]) == 2
    assert capsys.readouterr().err.startswith("appliance: port: ")
