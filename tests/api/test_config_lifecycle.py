# SPDX-License-Identifier: Apache-2.0
"""A configuration's life: exported from a running server, imported by others, cloned with changes.

What those serve that were started from it is held against what the first one served.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.cli import main
from appliance.configuration import load_settings, read_configuration
from tests.api.access import ask
from tests.api.management import eventually
from tests.conftest import REAL_MODEL, RunningServer, run_in_thread, run_process

KEY = "planted-key"
SECRETS = {
    "APPLIANCE_API_KEYS": KEY,
    "APPLIANCE_HF_TOKEN": "planted-hub-token",
    "APPLIANCE_ENVIRONMENT__MY_TOKEN": "planted-variable",
}
SETTINGS = {
    "name": "first",
    "project": "shop",
    "queue": "gpu-small",
    "route": "https://ai.example.com/embeddings",
    "auth": "required",
    "cors_allow_origins": ["https://app.example.com"],
    "drain_timeout_seconds": 5,
    "models": [
        {
            "model": f"embedded:{REAL_MODEL}",
            "aliases": ["text-embedding-3-small"],
            "prompts": {"query": "query: ", "document": "passage: "},
            "default_prompt_name": "document",
            "max_client_batch_size": 3,
            "max_input_tokens": 16,
            "payload_limit": 2000,
            "truncate": True,
        }
    ],
}
ADDED = {
    "model": f"embedded:{REAL_MODEL}",
    "name": "added",
    "pooling": "cls",
    "normalize": False,
    "max_input_tokens": 8,
    "token_ids": "reject",
}
CHANGES = {
    "name": "third",
    "route": None,
    "drain_timeout_seconds": 6.5,
    "models.0.max_client_batch_size": 2,
    "models.1.pooling": "mean",
}

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
GOOD: dict[str, dict[str, Any]] = {
    "the prompt that is set": {"model": REAL_MODEL, "input": "a cat"},
    "another prompt": {"model": "text-embedding-3-small", "input": "a cat", "input_type": "query"},
    "no prompt": {"model": REAL_MODEL, "input": "a cat", "prompt": ""},
    "cut off": {"model": REAL_MODEL, "input": LONG},
    "short vectors": {"model": REAL_MODEL, "input": "a cat", "dimensions": 8},
    "a batch": {"model": REAL_MODEL, "input": ["a", "b", "c"]},
    "the one that was added": {"model": "added", "input": "a cat"},
}
BAD: dict[str, dict[str, Any]] = {
    "too many texts": {"model": REAL_MODEL, "input": ["a", "b", "c", "d"]},
    "too large a body": {"model": REAL_MODEL, "input": "x" * 2000},
    "no such prompt": {"model": REAL_MODEL, "input": "a", "prompt_name": "title"},
    "too long a text": {"model": "added", "input": LONG},
    "token ids": {"model": "added", "input": [1, 2]},
    "no such model": {"model": "BAAI/bge-m3", "input": "a"},
}
OF_THE_CLONE = ("a batch", "the one that was added", "too many texts")
"""What the clone answers otherwise."""


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints."""
    capsys.readouterr()
    assert main(["config", *arguments]) == 0
    return capsys.readouterr().out


def export(server: RunningServer) -> dict[str, Any]:
    """The export, without what each server was given by its own flags."""
    answer = ask(server, KEY, "GET", "/api/config")
    assert "planted" not in answer.text
    found: dict[str, Any] = answer.json()
    del found["data_dir"]
    return found


def behaviour(server: RunningServer) -> dict[str, Any]:
    """What clients get of a server, vectors to the last bit."""
    eventually(lambda: httpx.get(f"{server.url}/health").status_code == 200)
    found: dict[str, Any] = {"no key": ask(server, None, "GET", "/v1/models").json()}
    models = ask(server, KEY, "GET", "/v1/models").json()["data"]
    found["models"] = [{**model, "created": None} for model in models]
    for case, body in {**GOOD, **BAD}.items():
        answer = ask(
            server, KEY, "POST", "/v1/embeddings", json={**body, "encoding_format": "base64"}
        )
        assert (answer.status_code == 200) == (case in GOOD) or case in OF_THE_CLONE, answer.text
        found[case] = (answer.status_code, answer.json())
    return found


def test_what_is_imported_behaves_as_what_was_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, moved, changed = (tmp_path / f"{name}.json" for name in ("first", "moved", "changed"))
    first.write_text(json.dumps(SETTINGS))

    def folder(name: str) -> tuple[str, str]:
        return "--data-dir", str(tmp_path / name)

    with run_process("--config", str(first), *folder("a"), environment=SECRETS) as a:
        assert any("published at https://ai.example.com/embeddings" in line for line in a.log)
        assert ask(a, KEY, "POST", "/api/models", json=ADDED).status_code == 201
        exported, expected = export(a), behaviour(a)
        there = ("--base-url", f"{a.url}/embeddings/v1", "--api-key", KEY)  # as a gateway has it
        moved.write_text(command(capsys, "export", *there))
        changes = [f"--set={name}={json.dumps(value)}" for name, value in CHANGES.items()]
        changed.write_text(command(capsys, "clone", *there, *changes))
        clone = ask(a, KEY, "POST", "/api/config/clone", json=CHANGES).json()
        assert json.loads(changed.read_text()) == clone
        assert export(a) == exported, "a clone changes nothing where it is made"
    assert expected["the one that was added"][1]["data"] != expected["no prompt"][1]["data"]
    told = json.loads(moved.read_text())
    assert {**told, "data_dir": None} == {**exported, "data_dir": None}
    assert told["secrets_omitted"] == ["api_keys", "hf_token", "environment.MY_TOKEN"]
    assert "planted" not in moved.read_text() + changed.read_text()

    assert main(["config", "validate", "--config", str(moved)]) == 2
    refused = capsys.readouterr().err
    assert all(variable in refused for variable in SECRETS)
    with run_process("--config", str(moved), *folder("b"), environment=SECRETS) as b:
        assert export(b) == exported
        assert behaviour(b) == expected

        monkeypatch.setenv("APPLIANCE_API_KEYS", KEY)  # by which the command finds its key
        printed = command(capsys, "import", str(changed), "--base-url", b.url)
        assert printed.splitlines() == [
            "in force now: models",
            "from the next start on: name, route, drain_timeout_seconds",
            "overridden, and so without effect: data_dir (flags)",
        ]
        found = behaviour(b)
        same = {case for case in expected if case not in OF_THE_CLONE}
        assert {case: found[case] for case in same} == {case: expected[case] for case in same}
        assert found["a batch"][0] == found["too many texts"][0] == 400
        assert found["the one that was added"][0] == 200
        assert found["the one that was added"] != expected["the one that was added"]

    for variable, secret in SECRETS.items():
        monkeypatch.setenv(variable, secret)
    monkeypatch.setenv("APPLIANCE_DATA_DIR", str(tmp_path / "b"))
    kept = read_configuration()  # what the next start would find
    assert (kept.sources["name"], kept.sources["data_dir"]) == ("kept", "environment")
    monkeypatch.setenv("APPLIANCE_DATA_DIR", str(tmp_path / "c"))
    from_file = load_settings(config=changed)
    assert kept.settings.model_dump(exclude={"data_dir"}) == from_file.model_dump(
        exclude={"data_dir"}
    )
    with run_in_thread(from_file) as c:
        assert export(c) == {name: value for name, value in clone.items() if name != "data_dir"}
        status = ask(c, KEY, "GET", "/api/status").json()
        assert status["instance"]["name"] == "third"
        assert status["models"][0]["endpoint"] == f"/{REAL_MODEL}/v1/embeddings"


@pytest.mark.parametrize(
    ("arguments", "content", "code", "told"),
    [
        (["missing.json"], None, 2, "there is no such settings file"),
        (["file.json"], "[]", 2, "it must hold a JSON object"),
        (["file.json"], "no JSON", 2, "file.json: "),
        (["file.json", "--base-url", "http://127.0.0.1:1"], "{}", 1, "no server answers"),
    ],
)
def test_what_cannot_be_imported_is_told(
    arguments: list[str],
    content: str | None,
    code: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("file.json").write_text(content)
    assert main(["config", "import", *arguments]) == code
    assert told in capsys.readouterr().err
