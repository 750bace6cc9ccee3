# SPDX-License-Identifier: Apache-2.0
"""OpenAI's route where clients do not know what the model is called, and TEI's path for it."""

from __future__ import annotations

import logging

import httpx
import pytest

from appliance.settings import ModelSettings, Settings
from compat.openai_asking import MOST_NAMES_TOLD
from tests.conftest import RunningServer, run_in_thread

MODELS = (ModelSettings(model="fake/model", aliases=("small",)), ModelSettings(model="other"))
ANY_NAME = Settings(models=MODELS, any_model_name=True)


def post(server: RunningServer, path: str, **body: object) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json={"input": "a", **body}, timeout=60)


def model_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    name: str = response.json()["model"]
    return name


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "compat.openai_asking"]


def test_an_unknown_name_is_answered_by_the_default_model_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with run_in_thread(ANY_NAME) as server, caplog.at_level(logging.WARNING):
        for name in ("text-embedding-ada-002", "text-embedding-ada-002", "tei\nforged"):
            assert model_of(post(server, "/v1/embeddings", model=name)) == "fake/model"
        assert model_of(post(server, "/v1/embeddings", model="small")) == "fake/model"
        assert model_of(post(server, "/v1/embeddings", model="other")) == "other"
    first, second = warnings(caplog)
    assert first.startswith("no model is called 'text-embedding-ada-002'; ")
    assert second.startswith(r"no model is called 'tei\nforged'; ")


@pytest.mark.parametrize("body", [{}, {"model": None}, {"model": ""}])
def test_no_name_means_the_default_model(
    body: dict[str, str | None], caplog: pytest.LogCaptureFixture
) -> None:
    with run_in_thread(ANY_NAME) as server:
        assert model_of(post(server, "/v1/embeddings", **body)) == "fake/model"
    assert not warnings(caplog)


def test_under_a_models_own_path_an_unknown_name_means_that_model() -> None:
    with run_in_thread(ANY_NAME) as server:
        assert model_of(post(server, "/other/v1/embeddings", model="none such")) == "other"
        assert post(server, "/other/v1/embeddings", model="small").status_code == 404
        assert post(server, "/none/v1/embeddings", model="other").status_code == 404


def test_the_log_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    with run_in_thread(ANY_NAME) as server, httpx.Client() as client:
        for number in range(MOST_NAMES_TOLD + 5):
            body = {"model": f"unknown {number}" + "x" * 1000, "input": "a"}
            client.post(f"{server.url}/v1/embeddings", json=body).raise_for_status()
    told = warnings(caplog)
    assert len(told) == MOST_NAMES_TOLD
    assert told[-1].endswith("no further names are told of")
    assert max(map(len, told)) < 300


def test_it_is_off_unless_set(fake_server: RunningServer) -> None:
    assert post(fake_server, "/v1/embeddings", model="none such").status_code == 404
    assert post(fake_server, "/v1/embeddings").status_code == 400


def test_the_list_of_models_takes_no_unknown_name() -> None:
    with run_in_thread(ANY_NAME) as server:
        assert httpx.get(f"{server.url}/v1/models/none").status_code == 404


def test_teis_path_answers_as_openais(fake_server: RunningServer) -> None:
    mine, theirs = (
        post(fake_server, path, model="other", encoding_format="base64")
        for path in ("/embeddings", "/v1/embeddings")
    )
    assert mine.json() == theirs.json()
    assert mine.headers["server-timing"]
    assert model_of(mine) == "other"


def test_on_teis_path_no_name_means_the_default_model(fake_server: RunningServer) -> None:
    assert model_of(post(fake_server, "/embeddings")) == "fake/model"
    unknown = post(fake_server, "/embeddings", model="none such")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"


def test_teis_path_asks_for_keys_where_they_are_needed() -> None:
    settings = Settings(models=MODELS, api_keys=("sk-right",))  # type: ignore[arg-type]
    with run_in_thread(settings) as server:
        assert post(server, "/embeddings").status_code == 401
