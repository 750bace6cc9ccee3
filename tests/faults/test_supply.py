# SPDX-License-Identifier: Apache-2.0
"""A model's way from the hub to its first answer, with whatever can happen to it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from huggingface_hub import constants

from appliance.engine.loading import load_model, prepare_model
from appliance.engine.sources import locate_model
from appliance.errors import ModelUnavailable
from appliance.settings import ModelSettings, Settings
from tests.conftest import RunningServer, run_in_thread, run_process
from tests.fake_hub import FakeHub, FakeRepo, run_hub, use_endpoint

REAL = "embedded:all-MiniLM-L6-v2"
WEIGHTS = "model.safetensors"
NAME = "org/mini"


@pytest.fixture(scope="module")
def folder() -> Path:
    return locate_model(REAL, revision=None, token=None, cache=None)


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with run_hub(org__mini=FakeRepo({"main": folder})) as running:
        use_endpoint(monkeypatch, running.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("appliance.engine.hub.PAUSES_SECONDS", (0.0, 0.0))
        yield running


def settings(cache: Path) -> Settings:
    return Settings(models=(ModelSettings(model=NAME),), hub_cache=cache, model_wait_seconds=120)


def description(server: RunningServer) -> dict[str, object]:
    found: dict[str, object] = httpx.get(f"{server.url}/api/models/{NAME}").json()
    return found


def test_a_model_is_served_from_the_hub_and_then_without_it(hub: FakeHub, tmp_path: Path) -> None:
    flags = ("--models", NAME, "--hub-cache", str(tmp_path))
    online = {"HF_ENDPOINT": hub.url, "NO_PROXY": "127.0.0.1"}
    # Fresh, as the hub's client looks at its variables while it is imported.
    with run_process(*flags, environment=online, fresh=True) as server:
        first = server.embed(model=NAME, input="a").json()["data"]
        assert description(server)["revision"] == hub.repos[NAME].commit("main")
    hub.asked.clear()
    offline = {**online, "HF_HUB_OFFLINE": "1"}
    with run_process(*flags, environment=offline, fresh=True) as server:
        assert server.embed(model=NAME, input="a").json()["data"] == first
        assert description(server)["revision"] == hub.repos[NAME].commit("main")
    assert hub.asked == []


def test_damaged_weights_are_not_served_and_a_later_request_tries_again(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.engine.lifecycle.COOL_DOWN_SECONDS", 0.0)
    hub.damaged[WEIGHTS] = 3  # each try of the first load
    with run_in_thread(settings(tmp_path), prepare_model, wait=False) as server:
        while description(server)["state"] != "failed":
            pass
        assert "model.safetensors was damaged on the way" in str(description(server)["reason"])
        assert description(server)["revision"] is None
        assert server.embed(model=NAME, input="a").status_code == 200
        assert description(server)["revision"] == hub.repos[NAME].commit("main")
    assert len(hub.ranges[WEIGHTS]) == 4


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def reason(model: Path) -> str:
    with pytest.raises(ModelUnavailable) as refused:
        load_model(Settings(), ModelSettings(model=str(model), name="m"))
    return refused.value.message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lambda whole: b"", "model.safetensors cannot be read"),
        (lambda whole: whole[:100], "model.safetensors cannot be read"),
        (lambda whole: whole[:-1], "model.safetensors cannot be read"),
        (lambda whole: b"<html>Not found</html>", "model.safetensors cannot be read"),
        (lambda whole: b"\xff" * 8 + whole[8:], "model.safetensors cannot be read"),
        (
            lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "git lfs pull",
        ),
    ],
    ids=["empty", "cut in its header", "cut", "a page", "a huge header", "a pointer"],
)
def test_broken_weights_are_told_by_name(
    content: object, told: str, folder: Path, tmp_path: Path
) -> None:
    model = copied(folder, tmp_path / "model")
    assert callable(content)
    (model / WEIGHTS).write_bytes(content((folder / WEIGHTS).read_bytes()))
    assert told in reason(model)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"tokenizer.json": None, "vocab.txt": None}, "its tokenizer is missing"),
        ({"tokenizer.json": '{"version": "1.0", "tr'}, "its tokenizer cannot be read"),
        ({"config.json": None}, "its config.json cannot be read"),
        ({"config.json": "{"}, "config"),
        ({WEIGHTS: None}, "it has no safetensors weights"),
        (
            {
                WEIGHTS: None,
                "model-00001-of-00002.safetensors": WEIGHTS,
                f"{WEIGHTS}.index.json": '{"metadata": {}, "weight_map": {'
                '"a": "model-00001-of-00002.safetensors",'
                '"b": "model-00002-of-00002.safetensors"}}',
            },
            "model-00002-of-00002.safetensors",
        ),
    ],
    ids=["no tokenizer", "half a tokenizer", "no config", "half a config", "no weights", "a shard"],
)
def test_missing_and_broken_files_are_told(
    files: dict[str, str | None], told: str, folder: Path, tmp_path: Path
) -> None:
    model = copied(folder, tmp_path / "model")
    for name, content in files.items():
        if content == WEIGHTS:
            shutil.copy(folder / WEIGHTS, model / name)
        elif content is None:
            (model / name).unlink()
        else:
            (model / name).write_text(content)
    assert told in reason(model)
