# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from appliance import __version__
from appliance.cli import main


def show(capsys: pytest.CaptureFixture[str], *flags: str) -> Any:
    assert main(["config", "show", *flags]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "flags",
    [
        ["--models", "a,b/c"],
        ["--models", "a", "--models", "b/c"],
        ["--models", '[{"model": "a"}, "b/c"]'],
        ["--models", '{"model": "a"}', "--models", "b/c"],
    ],
)
def test_a_flag_lists_models_as_words_or_json(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [model["model"] for model in show(capsys, *flags)["models"]] == ["a", "b/c"]


def test_a_flag_takes_a_models_settings_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = show(capsys, "--models", '{"model": "a", "pooling": "cls", "aliases": "x,y"}')
    assert (found["models"][0]["pooling"], found["models"][0]["aliases"]) == ("cls", ["x", "y"])


def test_a_flags_name_has_hyphens(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(capsys, "--drain-timeout-seconds", "7")["drain_timeout_seconds"] == 7.0


def test_an_unknown_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["serve", "--prot", "1"])
    assert stop.value.code == 2
    assert "--prot" in capsys.readouterr().err


def test_good_settings_are_called_good(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "validate", "--models", "a,b"]) == 0
    assert "models: a, b" in capsys.readouterr().out


@pytest.mark.parametrize("action", ["show", "export"])
def test_secrets_are_neither_shown_nor_exported(
    action: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APPLIANCE_HF_TOKEN", "sk-hush")
    monkeypatch.setenv("APPLIANCE_API_KEYS", "sk-hush,sk-hush-too")
    monkeypatch.setenv("APPLIANCE_ENVIRONMENT", '{"AWS_SECRET_ACCESS_KEY": "sk-hush", "A": "b"}')
    assert main(["config", action]) == 0
    out, err = capsys.readouterr()
    assert "sk-hush" not in out + err
    assert json.loads(out)["environment"]["A"] == "b"


def test_the_schema_is_printed_as_json_or_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert "models" in json.loads(capsys.readouterr().out)["properties"]
    assert main(["config", "schema", "--format", "markdown"]) == 0
    assert capsys.readouterr().out.startswith("| Setting | Variable |")


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"appliance {__version__}\n"


def test_the_command_exits_with_2_on_bad_settings() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "appliance", "serve", "--port", "x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("appliance: port: ")
