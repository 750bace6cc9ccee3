# SPDX-License-Identifier: Apache-2.0
"""Every malformed request: its status, its shape, and a server that is none the worse."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from appliance.engine.backend import Room
from appliance.engine.jobs import Batch
from appliance.settings import ModelSettings, Settings
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import FakeBackend, FakePrepared, load_fake, loading

MODEL = "fake/model"
INVALID = "invalid_request_error"


def body(**fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "input": "a", **fields}).encode()


# name: (body, status, param, part of the message)
MALFORMED: dict[str, tuple[bytes, int, str | None, str]] = {
    "empty body": (b"", 400, None, "could not parse"),
    "cut JSON": (b'{"model": "fake/model", "input": "a', 400, None, "could not parse"),
    "trailing words": (body() + b" x", 400, None, "could not parse"),
    "not UTF-8": (b'{"model": "fake/model", "input": "\xff\xfe"}', 400, None, "could not parse"),
    "half a surrogate": (
        b'{"model":"fake/model","input":"a\\ud800"}',
        400,
        None,
        "Half a surrogate pair",
    ),
    "NaN": (b'{"model": "fake/model", "input": NaN}', 400, None, "could not parse"),
    "nested deeply": (b'{"input":' + b"[" * 100_000, 400, "input[0][0]", "Expected"),
    "an array": (b"[]", 400, None, "Expected `object`"),
    "null": (b"null", 400, None, "Expected `object`"),
    "no model": (b'{"input": "a"}', 400, "model", "provide a 'model'"),
    "model is null": (body(model=None), 400, "model", "provide a 'model'"),
    "model is a number": (body(model=7), 400, "model", "Expected `str"),
    "unknown model": (body(model="absent"), 404, "model", "'absent' does not exist"),
    "no input": (b'{"model": "fake/model"}', 400, "input", "provide 'input'"),
    "input is null": (body(input=None), 400, "input", "Expected"),
    "input is an object": (body(input={"text": "a"}), 400, "input", "Expected"),
    "input is a number": (body(input=3), 400, "input", "Expected"),
    "input is empty": (body(input=""), 400, "input", "empty"),
    "no inputs": (body(input=[]), 400, "input", "empty list"),
    "an empty input": (body(input=["a", ""]), 400, "input[1]", "empty"),
    "an empty list of ids": (body(input=[[5], []]), 400, "input[1]", "empty"),
    "a null among texts": (body(input=["a", None]), 400, "input[1]", "Expected"),
    "a float among ids": (body(input=[1, 2.5]), 400, "input[1]", "Expected"),
    "a truth value among ids": (body(input=[1, True]), 400, "input[1]", "Expected"),
    "texts and ids": (body(input=["a", 5]), 400, "input", "must be all"),
    "nested too far": (body(input=[[[1]]]), 400, "input[0][0]", "Expected"),
    "2049 inputs": (body(input=["a"] * 2049), 400, "input", "2049 items"),
    "too long": (body(input="word " * 40), 400, "input", "maximum context length is 32"),
    "one of several too long": (body(input=["a", "b " * 40]), 400, "input[1]", "input[1] has 42"),
    "id below zero": (body(input=[-1]), 400, "input", "does not have"),
    "id beyond the vocabulary": (body(input=[[5], [200_000]]), 400, "input[1]", "does not have"),
    "id beyond 64 bits": (body(input=[2**70]), 400, "input", ""),
    "native id beyond": (
        body(input=[50_000], token_encoding="native"),
        400,
        "input",
        "0 to 49999",
    ),
    "ids refused": (body(input=[5], token_encoding="reject"), 400, "input", "text only"),
    "unknown vocabulary": (
        body(token_encoding="p50k"),
        400,
        "token_encoding",
        "'native', 'reject'",
    ),
    "encoding_format md5": (
        body(encoding_format="md5"),
        400,
        "encoding_format",
        "['float', 'base64']",
    ),
    "encoding_format number": (body(encoding_format=1), 400, "encoding_format", "Expected `str"),
    "no dimensions": (body(dimensions=0), 400, "dimensions", ">= 1"),
    "too many dimensions": (body(dimensions=9), 400, "dimensions", "between 1 and 8"),
    "half a dimension": (body(dimensions=1.5), 400, "dimensions", "Expected `int"),
    "dimensions in words": (body(dimensions="3"), 400, "dimensions", "Expected `int"),
    "unknown field": (body(dimension=3), 400, "dimension", "Unrecognized request argument"),
    "unknown prompt": (
        body(prompt_name="absent"),
        400,
        "prompt_name",
        "it has: 'query', 'passage'",
    ),
    "two ways to say a prompt": (
        body(prompt_name="query", input_type="query"),
        400,
        "input_type",
        "exclude each other",
    ),
    "unknown input type": (body(input_type="poem"), 400, "input_type", "'query', 'document'"),
    "native ids with a prompt": (
        body(input=[5], token_encoding="native", prompt="p: "),
        400,
        "input",
        "no prompt",
    ),
    "truncate in words": (body(truncate="yes"), 400, "truncate", "Expected `bool"),
    "unknown direction": (
        body(truncation_direction="up"),
        400,
        "truncation_direction",
        "allowed are 'left', 'right'",
    ),
}


def assert_error(
    response: httpx.Response,
    status: int,
    *,
    kind: str = INVALID,
    code: str | None = None,
    param: str | None = None,
) -> str:
    """Check the whole shape; return the message."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"], error["param"]) == (kind, code, param)
    message: str = error["message"]
    assert message
    return message


def post(server: RunningServer, content: bytes, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{server.url}/v1/embeddings",
        content=content,
        headers={"content-type": "application/json", **headers},
    )


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_requests_are_told_what_is_wrong(fake_server: RunningServer, case: str) -> None:
    content, status, param, words = MALFORMED[case]
    code = "model_not_found" if status == 404 else None
    message = assert_error(post(fake_server, content), status, param=param, code=code)
    assert words in message
    assert fake_server.embed(model=MODEL, input="a").status_code == 200


def test_limits_are_those_of_the_model(fake_server: RunningServer) -> None:
    many = fake_server.embed(model="other", input=["a"] * 5)
    assert "at most 4" in assert_error(many, 400, param="input")
    long = fake_server.embed(model="other", input=["word " * 20] * 4)
    message = assert_error(
        long, 400, kind="max_tokens_per_request", code="max_tokens_per_request", param="input"
    )
    assert message.startswith("Requested 88 tokens, max 60 tokens per request")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
def test_other_content_types(fake_server: RunningServer, content_type: str) -> None:
    response = post(fake_server, body(), **{"content-type": content_type})
    assert content_type in assert_error(response, 415)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_by_other_spellings(fake_server: RunningServer, content_type: str) -> None:
    assert post(fake_server, body(), **{"content-type": content_type}).status_code == 200


def test_unknown_routes(fake_server: RunningServer) -> None:
    for path in ("/v1/nothing", "/v1/embeddings/x", "/a/b/c/v1/embeddings", "/nothing"):
        response = httpx.post(fake_server.url + path, json={})
        assert f"POST {path}" in assert_error(response, 404)


def test_unknown_model_by_id_and_by_path(fake_server: RunningServer) -> None:
    for path in ("/v1/models/no/such", "/no/such/v1/models", "/nothing/v1/models/x"):
        response = httpx.get(fake_server.url + path)
        message = assert_error(response, 404, code="model_not_found", param="model")
        assert "does not exist" in message


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/embeddings"), ("POST", "/v1/models")])
def test_wrong_methods(fake_server: RunningServer, method: str, path: str) -> None:
    response = httpx.request(method, fake_server.url + path)
    assert response.headers["allow"] == ("POST" if method == "GET" else "GET")
    assert f"{method} {path}" in assert_error(response, 405, code="method_not_supported")


@pytest.fixture(scope="module")
def small_server() -> Iterator[RunningServer]:
    models = (
        ModelSettings(model="small", payload_limit=1000),
        ModelSettings(model="large", payload_limit=2000),
    )
    settings = Settings(models=models, request_timeout_seconds=0.5)
    with run_in_thread(settings) as server:
        yield server


def test_bodies_over_the_limit(small_server: RunningServer) -> None:
    text = "a" * 1500
    for name, content in (
        ("the model's own", body(model="small", input=text)),
        ("any model's", body(model="large", input=text * 2)),
    ):
        message = assert_error(post(small_server, content), 413)
        assert "bytes" in message, name
    assert post(small_server, body(model="large", input=text)).status_code == 200


def test_a_body_that_never_comes(small_server: RunningServer) -> None:
    host, port = small_server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b'Content-Length: 100\r\n\r\n{"model":'
        )
        answer = b"".join(iter(lambda: connection.recv(65536), b""))  # the server closes it
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"did not arrive in time" in answer


def test_keys_are_asked_for_where_there_are_some() -> None:
    models = (ModelSettings(model=MODEL),)
    settings = Settings(models=models, api_keys=("first-key", "second-key"))
    with run_in_thread(settings) as server:
        for path in ("/v1/models", "/fake/model/v1/models"):
            none = httpx.get(server.url + path)
            assert "Missing bearer" in assert_error(none, 401)
            basic = httpx.get(server.url + path, headers={"authorization": "Basic Zmlyc3Qta2V5"})
            assert_error(basic, 401)
            wrong = httpx.get(server.url + path, headers={"authorization": "Bearer first-kez"})
            message = assert_error(wrong, 401, code="invalid_api_key")
            assert "first" not in message
            for key in ("first-key", "second-key"):
                good = httpx.get(server.url + path, headers={"authorization": f"Bearer {key}"})
                assert good.status_code == 200
        assert httpx.get(f"{server.url}/health").status_code == 200


class Gate:
    """Holds every forward pass until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, batch: Batch) -> None:
        self.entered.set()
        assert self.open.wait(30)


def test_one_request_too_many_is_told_when_to_come_back() -> None:
    gate = Gate()
    settings = Settings(models=(ModelSettings(model=MODEL, max_concurrent_requests=1),))
    with run_in_thread(settings, loading(lambda _: FakeBackend(before_forward=gate))) as server:
        first: list[httpx.Response] = []
        thread = threading.Thread(target=lambda: first.append(server.embed(model=MODEL, input="a")))
        thread.start()
        assert gate.entered.wait(30)
        refused = server.embed(model=MODEL, input="b")
        message = assert_error(refused, 429, kind="requests", code="rate_limit_exceeded")
        assert "try again" in message
        assert int(refused.headers["retry-after"]) >= 1
        assert int(refused.headers["retry-after-ms"]) >= 1
        gate.open.set()
        thread.join()
        assert first[0].status_code == 200
        assert server.embed(model=MODEL, input="b").status_code == 200


def test_the_waiting_room_is_counted_in_tokens() -> None:
    gate = Gate()
    settings = Settings(models=(ModelSettings(model=MODEL, max_queue_tokens=10),), cpu_workers=1)
    with run_in_thread(settings, loading(lambda _: FakeBackend(before_forward=gate))) as server:
        results: dict[str, httpx.Response] = {}

        def ask(text: str) -> None:
            results[text] = server.embed(model=MODEL, input=text)

        running = threading.Thread(target=ask, args=("running",))
        running.start()
        assert gate.entered.wait(30)
        # Nothing waits yet, so that even a request over the bound may.
        waiting = threading.Thread(
            target=ask, args=("one two three four five six seven eight nine",)
        )
        waiting.start()
        assert server.engine is not None
        lane = server.engine.models[0].lane
        assert lane is not None
        while not lane.queue.tokens:
            pass
        refused = server.embed(model=MODEL, input="no")
        message = assert_error(refused, 429, kind="requests", code="rate_limit_exceeded")
        assert "11 tokens are waiting" in message
        gate.open.set()
        running.join()
        waiting.join()
        assert {response.status_code for response in results.values()} == {200}


def test_a_fault_of_the_model_is_ours_and_keeps_its_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(batch: Batch) -> None:
        if 3 in batch.lengths:
            raise ValueError("secret detail")

    settings = Settings(models=(ModelSettings(model=MODEL),))
    with run_in_thread(settings, loading(lambda _: FakeBackend(before_forward=fail))) as server:
        bad = server.embed(model=MODEL, input=["fine text", "bad"])
        message = assert_error(bad, 500, kind="server_error")
        assert "secret" not in message
        assert "secret detail" in caplog.text
        assert server.embed(model=MODEL, input="still fine").status_code == 200


def test_nan_never_leaves_the_server() -> None:
    class Broken(FakeBackend):
        def forward(self, batch: Batch):  # type: ignore[no-untyped-def]
            vectors = super().forward(batch)
            vectors[batch.lengths == 3, 0] = float("nan")
            return vectors

    settings = Settings(models=(ModelSettings(model=MODEL),))
    with run_in_thread(settings, loading(lambda _: Broken())) as server:
        assert "NaN" in assert_error(server.embed(model=MODEL, input="x"), 500, kind="server_error")
        assert server.embed(model=MODEL, input="x y").status_code == 200


def test_an_unforeseen_fault_has_the_same_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("compat.openai.render", fail)
    with run_in_thread() as server:
        response = server.embed(model=MODEL, input="a")
        assert "secret" not in assert_error(response, 500, kind="server_error")


def test_loading_and_failed_models_answer_503() -> None:
    release = threading.Event()

    def load(settings: Settings, model: ModelSettings, rooms: Mapping[str, Room]) -> FakePrepared:
        assert release.wait(30)
        if model.name == "broken":
            raise RuntimeError("no such weights")
        return load_fake(settings, model, rooms)

    models = (ModelSettings(model="good"), ModelSettings(model="broken"))
    settings = Settings(models=models, model_wait_seconds=0.05)
    with run_in_thread(settings, load, wait=False) as server:
        health = httpx.get(f"{server.url}/health")
        assert (health.status_code, health.json()["status"]) == (503, "loading")
        early = server.embed(model="good", input="a")
        assert "still loading" in assert_error(early, 503, kind="server_error")
        assert early.headers["retry-after"]
        release.set()
        while httpx.get(f"{server.url}/health").status_code != 200:
            pass
        assert server.embed(model="good", input="a").status_code == 200
        failed = server.embed(model="broken", input="a")
        assert "no such weights" in assert_error(failed, 503, kind="server_error")
        states = {m["name"]: m["state"] for m in httpx.get(f"{server.url}/ready").json()["models"]}
        assert states == {"good": "idle", "broken": "failed"}


def test_a_request_waits_for_a_model_that_is_loading() -> None:
    release = threading.Event()

    def load(settings: Settings, model: ModelSettings, rooms: Mapping[str, Room]) -> FakePrepared:
        assert release.wait(30)
        return load_fake(settings, model, rooms)

    with run_in_thread(load=load, wait=False) as server:
        threading.Timer(0.2, release.set).start()
        assert server.embed(model=MODEL, input="a").status_code == 200
