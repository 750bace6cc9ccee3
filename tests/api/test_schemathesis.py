# SPDX-License-Identifier: Apache-2.0
"""The server against its own description: schemathesis sends what it allows, and what it does not.

``SCHEMATHESIS_CASES`` is how many cases to make, roughly; for a night's run set it to 20000.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import run_process

CASES = int(os.environ.get("SCHEMATHESIS_CASES", "100"))
MOST_GROWTH_BYTES = 80_000_000
KEY = "planted-static-key"

# In a process of its own, whose memory is the server's alone.
SERVE = """
import sys
import uvicorn
import appliance.access.attempts
from appliance.app import create_app
from appliance.bounded_http import BoundedHttp
from appliance.settings import ModelSettings, Settings
from tests.fakes import load_fake

appliance.access.attempts.MOST_FAILURES = 10**9  # else wrong keys would soon be answered 429
models = [ModelSettings(model=name) for name in ("one", "two", "team/three")]
settings = Settings(models=models, api_keys=(sys.argv[1],), data_dir=sys.argv[2])
uvicorn.run(create_app(settings, load_fake), port=0, http=BoundedHttp, access_log=False, ws="none")
"""

# Each exception says what JSON Schema has no words for.
CONFIG = """
[checks.negative_data_rejection]
# 414 and 431: what is wrong is also too long; 424: the model is of another kind, too.
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 414, 415, 422, 424, 428, 431]

[[operations]]
# A model must be named at /v1, and have as many dimensions; 1.0 is an integer to JSON Schema.
include-path-regex = ".*/(embeddings|embed|show)$"
checks.positive_data_acceptance.enabled = false

[[operations]]
# Of the other routes: ids must be of the vocabulary, prompts and kinds those of the model.
include-path-regex = ".*/(embed_.*|similarity|predict|rerank|invocations|vertex|tokenize|decode)$"
checks.positive_data_acceptance.enabled = false

[[operations]]
# A batch's input must be there; a file must not be empty, and a form's boundary not be in it.
include-path-regex = "/v1/(batches|files).*"
checks.positive_data_acceptance.enabled = false

[[operations]]
# Settings exclude each other; names must fit in a URL.
include-operation-id = "post_api_models"
checks.positive_data_acceptance.enabled = false

[[operations]]
# Settings exclude each other.
include-operation-id = "put_api_config"
checks.positive_data_acceptance.enabled = false

[[operations]]
# What is changed has to be there.
include-operation-id = "post_api_config_clone"
checks.positive_data_acceptance.enabled = false

[[operations]]
# expires_at must be in the future; names must be printable.
include-operation-id = "post_api_tokens"
checks.positive_data_acceptance.enabled = false
"""

# Random names reach nothing: every other case is about something that is there. What was removed
# is added again, so that the next case finds it; what was added is removed, lest it piles up.
HOOKS = """
import os
import zlib

import hypothesis
import httpx
import schemathesis

# Hypothesis's hill climbing, which this would start, stumbles over its own list now and then.
hypothesis.target = lambda *_, **__: None

URL, KEY = os.environ["SERVER_URL"], os.environ["SERVER_KEY"]
HEADERS = {"authorization": f"Bearer {KEY}"}
PLAIN = ("one", "two")
NAMING = (
    *("/v1/embeddings", "/v1/embed", "/v2/embed"),
    *("/api/embed", "/api/embeddings", "/api/show"),
)
CONFIG = {"models": [{"model": name} for name in (*PLAIN, "team/three")]}
TOKENS = [
    httpx.post(f"{URL}/api/tokens", json={"name": "t"}, headers=HEADERS).json()["token"]["id"]
    for _ in range(3)
]


def number(value):
    return zlib.crc32(repr(value).encode())


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    if path_parameters and number(path_parameters) % 2:
        chosen = number(path_parameters) // 2
        if "owner" in path_parameters:
            path_parameters |= {"owner": "team", "name": "three"}
        elif "name" in path_parameters:
            path_parameters["name"] = PLAIN[chosen % 2]
        if "wanted" in path_parameters:
            path_parameters["wanted"] = PLAIN[chosen % 2]
        if "token_id" in path_parameters:
            path_parameters["token_id"] = TOKENS[chosen % len(TOKENS)]
    return path_parameters


@schemathesis.hook
def map_body(context, body):
    path = context.operation.path
    if path == "/api/config" and isinstance(body, dict) and number(body) % 2:
        return {**CONFIG, **body}
    if isinstance(body, dict) and isinstance(body.get("model"), str) and number(body) % 4:
        if path in NAMING:
            body = {**body, "model": PLAIN[number(body) % 2]}
        elif path.startswith("/{name}/"):
            body = {key: value for key, value in body.items() if key != "model"}
    return body


@schemathesis.hook
def after_call(context, case, response):
    name = (case.path_parameters or {}).get("name")
    if case.method == "DELETE" and response.status_code < 300 and "models" in case.path:
        owner = case.path_parameters.get("owner")
        model = name if owner is None else f"{owner}/{name}"
        httpx.post(f"{URL}/api/models", json={"model": model}, headers=HEADERS)
    if case.path == "/api/models" and response.status_code == 201:
        httpx.delete(URL + response.headers["location"][0], headers=HEADERS)
    if case.method == "PUT" and response.status_code == 200:
        httpx.put(f"{URL}/api/config", json=CONFIG, headers=HEADERS)
"""


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    with run_process(KEY, str(folder), code=SERVE, fresh=True) as server:
        assert server.process is not None
        yield server.url, psutil.Process(server.process.pid)
    log = "".join(server.log)
    assert "Traceback" not in log, log[-4000:]


def headers_for(url: str, key: str) -> list[str]:
    """What makes schemathesis send a key: the setting's, one that is good for less, or none."""
    if key == "none":
        return []
    secret = KEY
    if key == "embed":
        auth = {"authorization": f"Bearer {KEY}"}
        made = httpx.post(f"{url}/api/tokens", json={"name": "less"}, headers=auth).json()
        secret = made["secret"]
    return ["--header", f"Authorization: Bearer {secret}"]


@pytest.mark.parametrize(
    ("key", "share", "phases"),
    [
        ("admin", 0.8, "examples,fuzzing"),
        pytest.param("admin", 0.8, "coverage", marks=pytest.mark.slow),
        # What is refused for the key is not looked at; many cases of it show nothing more.
        pytest.param("embed", 0.1, "examples,fuzzing", marks=pytest.mark.slow),
        pytest.param("none", 0.1, "examples,fuzzing", marks=pytest.mark.slow),
    ],
)
def test_every_answer_is_as_described(tmp_path: Path, key: str, share: float, phases: str) -> None:
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    (tmp_path / "api_hooks.py").write_text(HOOKS)
    with served(tmp_path / "data") as (url, process):
        document = httpx.get(f"{url}/openapi.json").json()
        operations = sum(len(item) for item in document["paths"].values())
        before = process.memory_info().rss
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml"),
            *("run", f"{url}/openapi.json", *headers_for(url, key)),
            *("--max-examples", str(max(1, int(CASES * share) // operations))),
            *("--phases", phases, "--continue-on-failure"),
            *("--suppress-health-check", "all", "--no-color"),
        ]
        variables = {"SCHEMATHESIS_HOOKS": "api_hooks", "SERVER_URL": url, "SERVER_KEY": KEY}
        run = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, **variables, "PYTHONPATH": f"{Path.cwd()}:{tmp_path}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2000:]
        grown = process.memory_info().rss - before
        cases = re.search(r"(\d+) generated", run.stdout)
        print(f"{key}: {cases and cases[1]} cases, RSS {before >> 20} MiB + {grown >> 20} MiB")
        assert grown < MOST_GROWTH_BYTES
