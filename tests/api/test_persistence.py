# SPDX-License-Identifier: Apache-2.0
"""Models that were added and removed for good."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from appliance.cli import main
from appliance.settings import ModelSettings, Settings
from tests.api.management import add, api, assert_error, described, names_of
from tests.api.test_lifecycle import run_to_the_end
from tests.conftest import REAL_MODEL, RunningServer, run_in_thread, run_process

CONFIGURED = (ModelSettings(model="team/first", aliases=("one",)), ModelSettings(model="second"))


def start(
    folder: Path, *models: ModelSettings, **more: Any
) -> AbstractContextManager[RunningServer]:
    return run_in_thread(Settings(models=models or CONFIGURED, data_dir=folder, **more))


def remove(server: RunningServer, name: str, *, persist: bool = True) -> None:
    query = "?persist=true" if persist else ""
    assert api(server, "DELETE", f"models/{name}{query}").status_code == 200


def written(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "models.json").read_bytes())
    return content


def test_an_added_model_outlives_a_restart_if_that_was_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    with start(folder) as server:
        answer = add(
            server, "new", aliases=["n"], normalize=False, prompts={"q": "?"}, persist=True
        )
        assert answer.json()["persisted"] is True
        add(server, "passing")
        found = described(server, "new")
    with start(folder) as server:
        assert names_of(server) == ["team/first", "second", "new"]
        again = described(server, "n")
        assert (again["settings"], again["persisted"]) == (found["settings"], True)
        assert server.embed(model="new", input="a").status_code == 200
        assert described(server, "second")["persisted"] is False
        remove(server, "n")
    with start(folder) as server:
        assert names_of(server) == ["team/first", "second"]
    assert [path.name for path in folder.iterdir() if "appliance.db" not in path.name] == [
        "models.json"
    ]


def test_what_is_kept_can_be_pasted_into_the_settings(tmp_path: Path) -> None:
    with start(tmp_path) as server:
        add(server, "new", max_memory={"cpu": "1GiB"}, calibration="texts.txt", persist=True)
    (kept,) = written(tmp_path)["models"]
    assert kept == {
        "model": "new",
        "name": "new",
        "max_memory": {"cpu": "1GiB"},
        "calibration": "texts.txt",
    }
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"models": [kept]}))
    assert main(["config", "validate", "--config", str(config)]) == 0


def test_a_removed_model_of_the_settings_stays_away_if_that_was_asked_for(tmp_path: Path) -> None:
    with start(tmp_path) as server:
        remove(server, "one")
        remove(server, "second", persist=False)
        assert names_of(server) == []
    assert written(tmp_path) == {"models": [], "removed": ["team/first"]}
    with start(tmp_path) as server:
        assert names_of(server) == ["second"]
        assert server.embed(model="second", input="a").status_code == 200


def test_a_removed_model_of_the_settings_can_be_replaced(tmp_path: Path) -> None:
    with start(tmp_path) as server:
        remove(server, "second")
        assert add(server, "better", name="second", persist=True).status_code == 201
    with start(tmp_path) as server:
        assert described(server, "second")["settings"]["model"] == "better"
        remove(server, "second")
    with start(tmp_path) as server:
        assert names_of(server) == ["team/first"]


def test_a_model_of_the_settings_wins_over_one_that_was_added(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with start(tmp_path) as server:
        add(server, "new", aliases=["n"], persist=True)
        add(server, "newer", persist=True)
    later = (ModelSettings(model="later", aliases=("n",)), *CONFIGURED)
    with start(tmp_path, *later) as server:
        assert names_of(server) == ["later", "team/first", "second", "newer"]
        assert described(server, "n")["name"] == "later"
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert any("model new: not served" in text and "answers to n" in text for text in warnings)
    with start(tmp_path) as server:
        assert "new" in names_of(server)


def test_nothing_changes_where_nothing_can_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with start(folder) as server:
        obstacle = folder / "models.json.tmp"  # where it would be written at first
        obstacle.mkdir(parents=True)
        answer = add(server, "new", persist=True)
        assert_error(answer, 500, "Nothing has changed")
        assert str(folder) in answer.json()["error"]["message"]
        assert_error(api(server, "DELETE", "models/one?persist=true"), 500, "Nothing has changed")
        assert names_of(server) == ["team/first", "second"]
        obstacle.rmdir()
        assert add(server, "new", persist=True).status_code == 201
        assert server.embed(model="one", input="a").status_code == 200


# content of the file: part of the message
BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "truncated"),
    "cut": (b'{"models": [{"model": "a"', "truncated"),
    "not JSON": (b"models: []", "malformed"),
    "not UTF-8": (b'{"models": [{"model": "\xff"}]}', "models.json: "),
    "nested deeply": (b'{"models":' + b"[" * 100_000, "models.json: "),
    "an array": (b"[]", "Expected `object`"),
    "an unknown key": (b'{"model": []}', "unknown field `model`"),
    "a bad setting": (
        b'{"models": [{"model": "a"}, {"model": "b", "pooling": "best"}]}',
        "models.1.pooling: ",
    ),
    "an unknown setting": (b'{"models": [{"model": "a", "x": 1}]}', "models.0.x: there is no such"),
    "a bad name": (b'{"models": [{"model": "a", "name": "a?"}]}', "models.0: name 'a?' cannot"),
    "removed is a word": (b'{"removed": "a"}', "Expected `array`"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_told_in_one_line(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = BROKEN[case]
    (tmp_path / "models.json").write_bytes(content)
    assert main(["config", "validate", "--data-dir", str(tmp_path)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith(f"appliance: {tmp_path}/models.json: ")
    assert message in told[0]


def test_a_broken_file_stops_the_start_with_2(tmp_path: Path) -> None:
    (tmp_path / "models.json").mkdir()
    done = run_to_the_end("--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"appliance: data_dir: [Errno 21] Is a directory: '{tmp_path}/models.json'"
    ]


def test_the_commands_tell_what_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data-dir", str(tmp_path)]
    assert main(["config", "export", *flags]) == 0
    assert capsys.readouterr().err == ""
    (tmp_path / "models.json").write_text('{"models": [{"model": "new"}]}')
    assert main(["config", "validate", *flags]) == 0
    assert f"models: {REAL_MODEL}, new" in capsys.readouterr().out
    assert main(["config", "export", *flags]) == 0
    out, err = capsys.readouterr()
    assert [model["name"] for model in json.loads(out)["models"]] == [REAL_MODEL]
    assert str(tmp_path / "models.json") in err


def test_a_real_model_comes_goes_and_stays(tmp_path: Path) -> None:
    def vectors(server: RunningServer, name: str) -> Any:
        answer = server.embed(model=name, input=["a", "b c"])
        assert answer.status_code == 200, answer.text
        return [item["embedding"] for item in answer.json()["data"]]

    with run_process("--data-dir", str(tmp_path)) as server:
        expected = vectors(server, REAL_MODEL)
        assert add(server, f"embedded:{REAL_MODEL}", name="again", persist=True).status_code == 201
        assert vectors(server, "again") == expected
        for name in ("again", REAL_MODEL):
            answer = api(server, "POST", f"models/{name}/unload")
            assert answer.json()["state"] == "unloaded"
            assert answer.json()["bytes"]["devices"] == {}
        assert vectors(server, "again") == expected
        remove(server, REAL_MODEL)
        assert server.embed(model=REAL_MODEL, input="a").status_code == 404
    with run_process("--data-dir", str(tmp_path)) as server:
        assert names_of(server) == ["again"]
        assert vectors(server, "again") == expected
