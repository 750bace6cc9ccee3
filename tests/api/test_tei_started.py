# SPDX-License-Identifier: Apache-2.0
"""A server that is started by the variables and flags of text-embeddings-inference."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from appliance.tei_variables import TEI_VARIABLES
from tests.conftest import RunningServer, run_process

MODEL = "embedded:all-MiniLM-L6-v2"
LONG = "word " * 2000


@pytest.fixture(autouse=True, scope="module")
def _no_variables_of_this_machine() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for variable in TEI_VARIABLES:
            patch.delenv(variable.name, raising=False)
        yield


@pytest.fixture(scope="module")
def server(_no_variables_of_this_machine: None) -> Iterator[RunningServer]:
    variables = {
        "MODEL_ID": MODEL,
        "SERVED_MODEL_NAME": "mine",
        "HOSTNAME": "3f1c2a9b7d55",
        "PROMETHEUS_PORT": "9000",
        "PORT": "not used, as the flag beats it",
    }
    flags = ("--max-client-batch-size", "4", "--uds-path", "/nowhere")
    with run_process(*flags, environment=variables) as started:
        yield started


def test_it_listens_on_every_address(server: RunningServer) -> None:
    assert server.url.startswith("http://0.0.0.0:")


def test_the_log_says_how_it_was_started_and_what_means_nothing(server: RunningServer) -> None:
    log = "".join(server.log)
    assert "started as text-embeddings-inference is, by MODEL_ID" in log
    (line,) = [line for line in server.log if "of no meaning here" in line]
    assert "PROMETHEUS_PORT (metrics are at /metrics" in line
    assert "--uds-path (" in line
    assert "HOSTNAME" not in line


def test_it_asks_for_no_key_and_warns_of_that(server: RunningServer) -> None:
    (line,) = [line for line in server.log if "auth is none" in line]
    assert "WARNING" in line
    assert server.embed(model="mine", input="a").status_code == 200


def test_any_name_or_none_is_the_one_model(server: RunningServer) -> None:
    for body in ({"model": "text-embedding-3-small"}, {}):
        answer = server.embed(input="a", **body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == "mine"
    assert httpx.post(f"{server.url}/embeddings", json={"input": "a"}).status_code == 200


def test_long_texts_are_cut(server: RunningServer) -> None:
    answer = server.embed(model="mine", input=LONG)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["total_tokens"] == 256


def test_flags_count(server: RunningServer) -> None:
    assert server.embed(model="mine", input=["a"] * 4).status_code == 200
    assert server.embed(model="mine", input=["a"] * 5).status_code == 400


def test_metrics_have_its_names_and_need_no_key(server: RunningServer) -> None:
    before = httpx.get(f"{server.url}/metrics")
    server.embed(model="mine", input=["a", "b"])
    after = httpx.get(f"{server.url}/metrics")
    assert before.status_code == after.status_code == 200
    assert _embedded(after.text) == _embedded(before.text) + 2


def _embedded(text: str) -> int:
    (line,) = [line for line in text.splitlines() if line.startswith("te_embed_success ")]
    return int(line.split()[1])


def test_the_origin_of_settings_is_told(server: RunningServer) -> None:
    report = httpx.get(f"{server.url}/api/config/schema").json()
    sources = report["sources"]
    assert (sources["models"], sources["host"], sources["port"]) == ("tei", "tei_defaults", "flags")
    assert report["values"]["any_model_name"] is True
    exported = httpx.get(f"{server.url}/api/config").json()
    (model,) = exported["models"]
    assert (model["model"], model["name"]) == (MODEL, "mine")
    assert (model["truncate"], model["max_client_batch_size"]) == (True, 4)


def test_a_key_is_asked_for_if_it_is_set() -> None:
    variables = {"API_KEY": "sk-right"}
    with run_process("--model-id", MODEL, "--no-te-metrics", environment=variables) as server:
        body = {"input": LONG}
        assert httpx.post(f"{server.url}/embeddings", json=body).status_code == 401
        headers = {"authorization": "Bearer sk-right"}
        answer = httpx.post(f"{server.url}/embeddings", json=body, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == MODEL.removeprefix("embedded:")
        metrics = httpx.get(f"{server.url}/metrics")
        assert metrics.status_code == 200
        assert "te_embed_count" not in metrics.text
    assert not [line for line in server.log if "auth is none" in line]


def test_the_variables_alone_change_nothing() -> None:
    variables = {"HOSTNAME": "0.0.0.0", "API_KEY": "sk-right", "AUTO_TRUNCATE": "true"}
    with run_process(environment=variables) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert server.embed(model="all-MiniLM-L6-v2", input="a").status_code == 200
        assert server.embed(model="none such", input="a").status_code == 404
        assert server.embed(model="all-MiniLM-L6-v2", input=LONG).status_code == 400
