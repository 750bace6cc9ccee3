# SPDX-License-Identifier: Apache-2.0
"""The configuration that is kept in ``data_dir``, among the other sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.cli import main
from appliance.configuration import (
    Configuration,
    Source,
    check_values,
    kept_file,
    read_configuration,
)
from appliance.faults import Fault, SettingsFault
from appliance.settings import Settings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ``data_dir`` that the environment names."""
    monkeypatch.setenv("APPLIANCE_DATA_DIR", str(tmp_path))
    return tmp_path


def keep(folder: Path, **values: Any) -> Path:
    path = kept_file(folder)
    path.write_text(json.dumps(values))
    return path


def given(folder: Path, **values: Any) -> Path:
    path = folder / "given.json"
    path.write_text(json.dumps(values))
    return path


def sources(configuration: Configuration) -> dict[str, Source]:
    return configuration.sources


def test_the_environment_beats_what_is_kept_and_that_the_given_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(folder, host="kept", port=1, models=["k"])
    file = given(folder, host="file", port=2, project="file", models=["f", "g"])
    monkeypatch.setenv("APPLIANCE_PORT", "3")
    found = read_configuration(config=file)
    settings = found.settings
    assert (settings.host, settings.port, settings.project) == ("kept", 3, None)
    assert [model.name for model in settings.models] == ["k"]
    assert sources(found) == {
        "data_dir": "environment",
        "port": "environment",
        "host": "kept",
        "models": "kept",
    }


def test_flags_beat_what_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = keep(folder, port=1, name="kept")
    assert main(["config", "show", "--port", "9"]) == 0
    out, err = capsys.readouterr()
    shown = json.loads(out)
    assert (shown["port"], shown["name"]) == (9, "kept")
    assert err == (
        f"appliance: {path}, which PUT /api/config has kept, is in force in place of --config\n"
    )


@pytest.mark.parametrize("by", ["flag", "file"])
def test_each_source_but_the_kept_one_may_say_where_it_lies(
    by: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(tmp_path, name="kept", data_dir="/elsewhere")
    flags = ["--data-dir", str(tmp_path)]
    if by == "file":
        flags = ["--config", str(given(tmp_path, data_dir=str(tmp_path), name="file"))]
    assert main(["config", "show", *flags]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["data_dir"]) == ("kept", str(tmp_path))


def test_the_given_file_still_holds_the_secrets_that_are_not_kept(folder: Path) -> None:
    keep(folder, secrets_omitted=["hf_token", "environment.MY_TOKEN"], environment={"A": "kept"})
    file = given(
        folder,
        hf_token="t",
        api_keys=["k"],
        environment={"MY_TOKEN": "m", "A": "file", "B": "file"},
    )
    settings = read_configuration(config=file).settings
    assert settings.hf_token is not None
    assert settings.api_keys == ()
    assert settings.environment == {"MY_TOKEN": "m", "A": "kept"}
    with pytest.raises(SettingsFault, match="APPLIANCE_HF_TOKEN"):
        read_configuration()


BROKEN: dict[str, tuple[str, str]] = {
    "cut": ('{"port": 1', "delimiter"),
    "a list": ("[]", "must hold a JSON object"),
    "an unknown key": ('{"prot": 1}', "prot: there is no such setting"),
    "a bad value": ('{"models": [{"model": "a", "dtype": "x"}]}', "models.0.dtype: Input should"),
    "a secret": ('{"api_keys": ["planted"]}', "api_keys: a configuration holds no secrets"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("command", ["validate", "show", "export"])
def test_a_broken_file_is_told_in_one_line_with_the_way_out(
    case: str, command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = BROKEN[case]
    path = kept_file(folder)
    path.write_text(content)
    assert main(["config", command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"appliance: {path}: ")
    assert message in line
    assert line.endswith(
        "correct the file that PUT /api/config has kept, or remove it to start without"
    )
    assert "planted" not in line


def test_a_contradiction_with_another_source_is_told_as_ever(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(folder, disk_swap=True)
    monkeypatch.setenv("APPLIANCE_AUTOMATIC_CPU_OFFLOAD", "true")
    with pytest.raises(SettingsFault, match="are both on") as refused:
        read_configuration()
    assert len(refused.value.faults) == 1


@pytest.mark.parametrize(
    ("values", "param", "message"),
    [
        ({"port": 70_000}, "port", "less than or equal to 65535"),
        ({"prot": 1}, "prot", "no such setting"),
        ({"models": []}, "models", "at least 1 item"),
        ({"models": [{"model": "a"}, {"model": "a"}]}, "settings", "two models answer to 'a'"),
        ({"models": [{"model": "a", "dtype": "int4"}]}, "models.0.dtype", "Input should be 'auto'"),
        ({"api_keys": ["planted"]}, "api_keys", "set APPLIANCE_API_KEYS"),
        ({"environment": {"MY_TOKEN": "planted"}}, "environment.MY_TOKEN", "__MY_TOKEN"),
        ({"environment": '{"MY_TOKEN": "planted"}'}, "environment.MY_TOKEN", "__MY_TOKEN"),
        ({"database_url": "postgresql://u:planted@h/d"}, "database_url", "set APPLIANCE_DATABASE"),
    ],
)
def test_values_are_checked_on_their_own(values: Any, param: str, message: str) -> None:
    (fault,) = check_values(values)
    assert fault.param == param
    assert message in fault.message
    assert "planted" not in str(fault)


def test_what_is_to_be_kept_is_checked_together_with_the_other_sources(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("APPLIANCE_AUTOMATIC_CPU_OFFLOAD", "true")
    monkeypatch.setenv("APPLIANCE_PORT", "3")
    running = read_configuration()
    assert "are both on" in str(running.with_kept({"disk_swap": True})[1][0])
    _, faults = running.with_kept({"secrets_omitted": ["hf_token"]})
    assert [fault.param for fault in faults] == ["secrets_omitted"]
    found, faults = running.with_kept({"port": 4, "project": "p", "automatic_cpu_offload": True})
    assert faults == []
    assert found is not None
    assert (found.settings.port, found.settings.project) == (3, "p")
    assert found.overridden == {"port": "environment"}
    assert sources(found)["project"] == "kept"


def test_a_secret_that_is_at_hand_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLIANCE_HF_TOKEN", "t")
    running = read_configuration()
    found, faults = running.with_kept({"secrets_omitted": ["hf_token"]})
    assert faults == []
    assert found is not None
    assert found.settings.hf_token is not None


def test_settings_of_a_program_have_a_source(tmp_path: Path) -> None:
    running = Configuration.of(Settings(port=1, data_dir=tmp_path))
    assert sources(running) == {"port": "file", "data_dir": "file"}
    found, faults = running.with_kept({"name": "n"})
    assert (found and found.settings.data_dir, faults) == (tmp_path, [])


def test_a_fault_is_a_line() -> None:
    assert str(Fault("a.b", "is bad")) == "a.b: is bad"
