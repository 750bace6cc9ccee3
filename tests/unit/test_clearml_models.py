# SPDX-License-Identifier: Apache-2.0
"""ClearML's own SDK against a server on loopback.

It takes seconds to import, so that one process of it asks for all that can go wrong.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from pydantic import ValidationError
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from appliance.engine import clearml_models
from appliance.engine.loading import load_model, prepare_model
from appliance.engine.sources import locate_model
from appliance.errors import ModelUnavailable
from appliance.exporting import known_commits
from appliance.settings import ModelSettings, Settings
from tests.conftest import run_in_thread
from tests.fake_clearml import ACCESS_KEY, SECRET_KEY, FakeClearml, run_clearml
from tests.parity.vocabularies import wordpiece

GOOD, SINGLE, BROKEN, MISSING, EMPTY, OTHER, PICKLED, UNKNOWN = (f"{n:032x}" for n in range(8))
ASK_ALL = """
import json, os, sys
from appliance.engine import clearml_models
answers = {}
for name, (identifier, variables, seconds) in json.loads(sys.argv[1]).items():
    before = dict(os.environ)
    os.environ.update(variables)
    clearml_models.ANSWER_SECONDS = seconds
    answers[name] = clearml_models.main(identifier)
    os.environ.clear()
    os.environ.update(before)
print("answers:" + json.dumps(answers))
os._exit(0)
"""


def packed(folder: Path, *names: str, inside: str = "") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.write(folder / name, inside + name)
    return file.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT, in both formats of weights."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = wordpiece()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=tokenizer.get_vocab_size(), intermediate_size=64, **sizes)
    bert = BertModel(config)
    bert.save_pretrained(folder)
    torch.save(bert.state_dict(), folder / "pytorch_model.bin")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clearml(model: Path) -> Iterator[FakeClearml]:
    names = sorted(path.name for path in model.iterdir())
    plain = [name for name in names if name != "model.safetensors"]
    with run_clearml() as server:
        server.add(GOOD, "model_package.zip", packed(model, *names, inside="my-model/"))
        server.add(SINGLE, "weights.pkl", b"a pickle")
        server.add(BROKEN, "model_package.zip", b"no archive")
        server.uris[MISSING] = f"{server.url}/models/none.zip"
        server.uris[EMPTY] = None
        server.add(OTHER, "model_package.zip", packed(model, "tokenizer.json"))
        server.add(PICKLED, "model_package.zip", packed(model, *plain))
        yield server


@pytest.fixture(scope="module")
def answers(
    clearml: FakeClearml, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Mapping[str, str]]:
    """What comes of each, by its name."""
    known = [SINGLE, BROKEN, MISSING, EMPTY, OTHER, PICKLED, UNKNOWN]
    asked: dict[str, Any] = {identifier: (identifier, {}, 60) for identifier in known}
    variables = {
        "a wrong key": {"CLEARML_API_SECRET_KEY": "mistyped"},
        "no key": {"CLEARML_API_ACCESS_KEY": "", "CLEARML_API_SECRET_KEY": ""},
        "away": {"CLEARML_API_HOST": "http://127.0.0.1:9"},
        "offline": {"CLEARML_OFFLINE_MODE": "1"},
    }
    asked |= {name: (GOOD, given, 60) for name, given in variables.items()}
    # The SDK tries for ever where TLS fails.
    asked["no TLS"] = (GOOD, {"CLEARML_API_HOST": clearml.url.replace("http", "https")}, 1)
    done = subprocess.run(
        [sys.executable, "-c", ASK_ALL, json.dumps(asked)],
        env={**os.environ, **clearml.environment(), **places(tmp_path_factory.mktemp("cache"))},
        capture_output=True,
        text=True,
    )
    found: dict[str, dict[str, str]] = json.loads(done.stdout.rpartition("answers:")[2])
    assert SECRET_KEY not in str(found)
    assert "mistyped" not in str(found)
    return found


def places(folder: Path) -> dict[str, str]:
    """Variables that keep the SDK out of the home directory."""
    return {"CLEARML_CACHE_DIR": str(folder), "CLEARML_CONFIG_FILE": str(folder / "none.conf")}


def test_a_package_is_served_as_a_folder_is(
    clearml: FakeClearml,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in {**clearml.environment(), **places(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    models = (
        ModelSettings(model=f"clearml://{GOOD}"),
        ModelSettings(model=str(model), name="local"),
    )
    settings = Settings(models=models, model_wait_seconds=120)
    with run_in_thread(settings, prepare_model) as server:
        there, here = (server.embed(model=name, input="a quick fox") for name in (GOOD, "local"))
        assert there.status_code == 200, there.text
        assert there.json()["data"] == here.json()["data"]
        described = httpx.get(f"{server.url}/api/models/{GOOD}").json()
        assert described["revision"] is None
    assert "clearml" not in sys.modules
    told = caplog.text + "".join(capfd.readouterr())
    assert ACCESS_KEY not in told
    assert SECRET_KEY not in told
    # No hub is asked for the commit of such a model, and an export does not tell it for unpinned.
    assert known_commits(models, tmp_path) == ({}, [])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (MISSING, "its files cannot be had from {url}/models/none.zip: Failed getting object"),
        (EMPTY, "ClearML knows the model, but was given no files for it"),
        (UNKNOWN, "ClearML at {url} has no model of that id, or none that these credentials may"),
        ("a wrong key", "invalid credentials"),
        ("a wrong key", "or have them in ~/clearml.conf"),
        ("no key", "there are no credentials for ClearML; set CLEARML_API_HOST, CLEARML_API_ACC"),
        ("away", "ClearML at http://127.0.0.1:9 could not be reached: ConnectionError"),
        ("no TLS", "the ClearML server gave no answer within 1 seconds"),
        ("offline", "CLEARML_OFFLINE_MODE is set"),
    ],
)
def test_what_keeps_a_model_away_is_told(
    name: str, told: str, clearml: FakeClearml, answers: Mapping[str, Mapping[str, str]]
) -> None:
    assert told.format(url=clearml.url) in answers[name]["fault"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (SINGLE, "one file for it, .*weights.pkl; what is needed is the model's folder"),
        (BROKEN, "an archive that cannot be read for it, .*model_package.zip"),
        (OTHER, "it has no config.json, but tokenizer.json"),
    ],
)
def test_what_is_no_model_is_told(
    name: str, told: str, answers: Mapping[str, Mapping[str, str]]
) -> None:
    with pytest.raises(ModelUnavailable, match=told):
        clearml_models._model_folder(Path(answers[name]["path"]))


def test_a_broken_archive_is_asked_for_anew(
    clearml: FakeClearml, answers: Mapping[str, Mapping[str, str]]
) -> None:
    def downloads(identifier: str) -> int:
        return len([line for line in clearml.asked if f"/models/{identifier}/" in line])

    assert downloads(BROKEN) == 2 * downloads(SINGLE)


def test_pickles_are_refused_as_they_are_elsewhere(
    answers: Mapping[str, Mapping[str, str]],
) -> None:
    folder = clearml_models._model_folder(Path(answers[PICKLED]["path"]))
    with pytest.raises(ModelUnavailable, match="it has no safetensors weights"):
        load_model(Settings(), ModelSettings(model=str(folder), name="m"))
    assert load_model(Settings(), ModelSettings(model=str(folder), name="m", pickle_weights=True))


def test_without_the_sdk_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelUnavailable, match=r"pip install 'embeddings-appliance\[clearml\]'"):
        locate_model(f"clearml://{GOOD}", revision=None, token=None, cache=None)


def test_a_download_ends_with_the_process_that_asked_for_it() -> None:
    command = [sys.executable, "-P", "-m", clearml_models.__name__, GOOD]
    assert subprocess.run(command, stdin=subprocess.DEVNULL).returncode == 1


@pytest.mark.parametrize("model", ["clearml://", "clearml://my-model", f"clearml://{GOOD}/1"])
def test_what_is_no_id_is_refused(model: str) -> None:
    with pytest.raises(ValidationError, match="32 of the characters 0-9 and a-f"):
        ModelSettings(model=model)


def test_a_revision_does_not_go_with_an_id() -> None:
    with pytest.raises(ValidationError, match="revision is for models of the hub"):
        ModelSettings(model=f"clearml://{GOOD}", revision="main")
