# SPDX-License-Identifier: Apache-2.0
"""The process from start to exit code."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import REAL_MODEL, RunningServer, run_process


def run_to_the_end(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appliance", "serve", "--port", "0", *flags],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_sigterm_lets_accepted_work_finish() -> None:
    answers: list[httpx.Response] = []
    with run_process(fresh=True) as server:
        texts = [f"text number {number}" for number in range(500)]
        thread = threading.Thread(
            target=lambda: answers.append(server.embed(model=REAL_MODEL, input=texts))
        )
        thread.start()
        # A second request is answered only after the first was read: both are accepted by then.
        assert server.embed(model=REAL_MODEL, input="a").status_code == 200
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        thread.join(60)
        assert server.process.wait(60) == 0
    assert answers[0].status_code == 200
    assert len(answers[0].json()["data"]) == 500


def test_bad_settings_end_the_start_with_2() -> None:
    done = run_to_the_end("--log-level", "loud", "--models", '{"model": "a", "pooling": "b"}')
    assert done.returncode == 2
    told = done.stderr.splitlines()
    assert len(told) == 2
    assert any("log_level" in line and "'debug'" in line for line in told)
    assert any("models.0.pooling" in line and "'mean'" in line for line in told)


def test_no_model_at_all_ends_with_1(tmp_path: Path) -> None:
    done = run_to_the_end("--models", f"{tmp_path}/nowhere")
    assert done.returncode == 1
    assert "there is no folder" in done.stderr
    assert "no model could be loaded" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_ends_with_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_to_the_end("--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "address already in use" in done.stderr


def test_one_broken_model_does_not_take_the_others_down(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with run_process(
        "--models",
        "embedded:all-MiniLM-L6-v2",
        "--models",
        f'{{"model": "{tmp_path}", "name": "x"}}',
    ) as server:
        assert server.embed(model=REAL_MODEL, input="a").status_code == 200
        broken = server.embed(model="x", input="a")
        assert broken.status_code == 503
        assert "tokenizer is missing" in broken.json()["error"]["message"]


def test_settings_reach_the_process_by_its_environment() -> None:
    environment = {
        "APPLIANCE_MODELS__0__MODEL": "embedded:all-MiniLM-L6-v2",
        "APPLIANCE_MODELS__0__NAME": "mini",
        "APPLIANCE_MODELS__0__ALIASES": "a,b",
        "APPLIANCE_API_KEYS": "secret-key",
    }
    with run_process(environment=environment, fresh=True) as server:
        assert server.embed(model="mini", input="a").status_code == 401
        response = httpx.post(
            f"{server.url}/b/v1/embeddings",
            json={"input": "a"},
            headers={"authorization": "Bearer secret-key"},
        )
        assert response.json()["model"] == "mini"
    assert not any("secret-key" in line for line in server.log)


def test_the_port_answers_before_the_model_does() -> None:
    """Nothing that loads before the port is open reads torch from disk."""
    code = (
        "import sys, appliance.server;sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=os.environ)


def test_a_model_larger_than_the_memory_for_it_is_served_all_the_same(
    real_server: RunningServer, tmp_path: Path
) -> None:
    texts = ["a cat", "two cats and a dog", "x " * 200] * 20
    expected = real_server.embed(model=REAL_MODEL, input=texts).json()
    limits = ("--max-cuda-memory-gib", "0.02", "--swap-dir", str(tmp_path))
    with run_process(*limits) as server:
        answer = server.embed(model=REAL_MODEL, input=texts)
        assert answer.status_code == 200, answer.text
        for found, wanted in zip(answer.json()["data"], expected["data"], strict=True):
            assert found["embedding"] == pytest.approx(wanted["embedding"], abs=1e-5)
        assert any("do not fit" in line for line in server.log)
    assert not list(tmp_path.glob("appliance-*"))


def test_a_folder_to_swap_to_that_cannot_be_used_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_to_the_end("--disk-swap", "--swap-dir", str(tmp_path / "file"))
    assert done.returncode == 1
    assert "swap_dir" in done.stderr
    assert str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr


def test_memory_goes_back_to_the_system_with_the_model() -> None:
    """Its share of it: the libraries stay."""
    with run_process(fresh=True) as server:
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        assert server.embed(model=REAL_MODEL, input="a").status_code == 200
        weights = sum(
            httpx.get(f"{server.url}/api/models/{REAL_MODEL}").json()["bytes"]["devices"].values()
        )
        loaded = process.memory_info().rss
        assert httpx.post(f"{server.url}/api/models/{REAL_MODEL}/unload").status_code == 200
        given_back = loaded - process.memory_info().rss
        assert given_back >= 0.7 * weights, f"{given_back} of {weights} bytes"
        assert server.embed(model=REAL_MODEL, input="a").status_code == 200
