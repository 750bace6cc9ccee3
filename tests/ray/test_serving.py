# SPDX-License-Identifier: Apache-2.0
"""The application on Ray: it answers as the plain server does, and outlives its replicas."""

from __future__ import annotations

import base64
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import psutil
import psycopg
import pytest
from openai import OpenAI

from tests.conftest import REAL_MODEL, RunningServer
from tests.ray.conftest import HELD, KEY, MODELS, POOL, RayServer, within_time

pytestmark = pytest.mark.slow

TEXTS = ["The cat sat on the mat.", "Ein zweiter Text", "naïve 漢字"]
TOO_LONG = "a word " * 400
REPEATS = 12


@dataclass(frozen=True)
class Asked:
    """A request that the plain server and the one on Ray are both asked.

    Attributes:
        path: Where.
        body: What; ``None``: it is read.
        vectors: Where in the answer vectors are.
    """

    path: str
    body: Any = None
    vectors: str = ""


ASKED = {
    "openai": Asked("/v1/embeddings", {"model": REAL_MODEL, "input": TEXTS}, "data"),
    "base64": Asked(
        "/v1/embeddings",
        {"model": REAL_MODEL, "input": TEXTS[0], "encoding_format": "base64"},
        "data",
    ),
    "path": Asked(f"/{REAL_MODEL}/v1/embeddings", {"input": TEXTS[1]}, "data"),
    "tei": Asked("/embed", {"inputs": TEXTS}, "."),
    "cohere": Asked(
        "/v2/embed",
        {"model": REAL_MODEL, "texts": TEXTS, "input_type": "search_document"},
        "embeddings.float",
    ),
    "ollama": Asked("/api/embed", {"model": f"{REAL_MODEL}:latest", "input": TEXTS}, "embeddings"),
    "tokens": Asked("/tokenize", {"inputs": TEXTS[0]}),
    "one model": Asked(f"/v1/models/{REAL_MODEL}"),
    "unknown model": Asked("/v1/embeddings", {"model": "nobody's", "input": "x"}),
    "no model": Asked("/v1/embeddings", {"input": "x"}),
    "bad JSON": Asked("/v1/embeddings", b"{"),
    "too long": Asked("/v1/embeddings", {"model": REAL_MODEL, "input": TOO_LONG}),
    "too long for Cohere": Asked(
        "/v2/embed",
        {"model": REAL_MODEL, "texts": [TOO_LONG], "input_type": "search_document"}
        | {"truncate": "NONE"},
    ),
    "TEI's error": Asked("/embed", {"inputs": []}),
    "Ollama's error": Asked("/api/embed", {"model": "nobody's", "input": "x"}),
    "no such route": Asked("/nothing"),
}


def answer(client: httpx.Client, asked: Asked) -> httpx.Response:
    headers = {"x-request-id": "mine", "content-type": "application/json"}
    if asked.body is None:
        return client.get(asked.path, headers=headers)
    if isinstance(asked.body, bytes):
        return client.post(asked.path, content=asked.body, headers=headers)
    return client.post(asked.path, json=asked.body, headers=headers)


def taken_apart(response: httpx.Response, where: str) -> tuple[Any, Any]:
    """An answer without what differs from one time to the next, and its vectors."""
    found = response.json()
    if isinstance(found, dict):
        for name in ("id", "created", "load_duration", "total_duration"):
            found.pop(name, None)
    if where == ".":
        return None, found
    inner, vectors = found, found
    for name in where.split(".") if where else ():
        inner, vectors = vectors, vectors[name]
    if not where:
        return found, None
    inner[where.rpartition(".")[2]] = len(vectors)
    vectors = [each["embedding"] if isinstance(each, dict) else each for each in vectors]
    if isinstance(vectors[0], str):
        vectors = [np.frombuffer(base64.b64decode(each), "<f4") for each in vectors]
    return found, vectors


@pytest.mark.parametrize("name", ASKED)
def test_it_answers_as_the_plain_server_does(
    served: RayServer, real_server: RunningServer, name: str
) -> None:
    asked = ASKED[name]
    with httpx.Client(base_url=real_server.url, timeout=60) as client:
        plain = answer(client, asked)
    on_ray = answer(served.client, asked)
    assert on_ray.status_code == plain.status_code
    expected, expected_vectors = taken_apart(plain, asked.vectors)
    found, vectors = taken_apart(on_ray, asked.vectors)
    if name not in ("unknown model", "Ollama's error"):  # they list the models that there are
        assert found == expected
    assert type(found) is type(expected)
    if expected_vectors is not None:
        np.testing.assert_allclose(np.array(vectors), np.array(expected_vectors), atol=1e-5)
    assert on_ray.headers.get_list("x-request-id") == ["mine"]
    assert on_ray.headers["content-type"] == plain.headers["content-type"]
    assert plain.headers.keys() <= on_ray.headers.keys()
    assert on_ray.headers.keys() - plain.headers.keys() <= {"x-served-by", "server"}


def test_the_front_refuses_what_is_of_one_process_or_too_large(served: RayServer) -> None:
    for path in ("/metrics", "/dashboard", "/api/logs", "/api/series"):
        refused = served.client.get(path)
        assert refused.status_code == 404
        assert "On Ray" in refused.json()["error"]["message"]
    changed = served.client.post("/api/models", json={"model": "other"})
    assert changed.status_code == 409
    assert "args.config" in changed.json()["error"]["message"]
    large = served.client.post("/embed", content=b" " * 33_000_000)
    assert large.status_code == 413
    assert large.json()["error_type"] == "Validation"
    keyless = httpx.post(f"{served.url}/v1/embeddings", json={"model": "second", "input": "x"})
    assert keyless.status_code == 401
    assert keyless.headers["www-authenticate"] == "Bearer"


def test_a_replica_holds_a_few_models_and_is_asked_for_those(served: RayServer) -> None:
    def ask(model: str) -> str:
        done = served.client.post("/v1/embeddings", json={"model": model, "input": "x"})
        assert done.status_code == 200
        replica: str = done.headers["x-served-by"]
        return replica

    def is_settled() -> bool:
        return all(len({ask(model) for _ in range(4)}) == 1 for model in MODELS)

    settled = False
    for _ in within_time():
        settled = is_settled()
        held = served.held()
        assert all(len(models) <= HELD for models in held.values())
        if settled:
            break
    assert settled
    assert set().union(*held.values()) == set(MODELS)
    for model in MODELS:
        assert model in held[ask(model)]


def test_a_replica_is_placed_by_its_queue(served: RayServer) -> None:
    import ray

    left = ray.available_resources()[POOL]
    assert left == pytest.approx(1 - 2 * 0.001)
    assert served.replicas().keys()


def test_a_token_of_one_replica_is_good_at_all(served: RayServer) -> None:
    made = served.client.post("/api/tokens", json={"name": "app", "scopes": ["embed"]})
    assert made.status_code == 201
    headers = {"authorization": f"Bearer {made.json()['secret']}"}
    seen = set()
    for _ in within_time():
        listed = httpx.get(f"{served.url}/v1/models", headers=headers)
        assert listed.status_code == 200
        seen.add(listed.headers["x-served-by"])
        if len(seen) == 2:
            break
    assert len(seen) == 2


def test_a_client_that_leaves_ends_its_work(served: RayServer) -> None:
    """Some forty seconds of it."""
    ask = {"model": "second", "input": ["word " * 140] * 2000}
    served.client.post("/v1/embeddings", json={"model": "second", "input": "x"})
    before = counted(served, "second")
    with pytest.raises(httpx.ReadTimeout):
        served.client.post("/v1/embeddings", json=ask, timeout=2)
    for _ in within_time():
        if not any(each["requests_in_progress"] for each in described(served, "second")):
            break
    assert counted(served, "second") == before


def described(served: RayServer, model: str) -> list[dict[str, Any]]:
    statuses = served.replicas().values()
    return [each for status in statuses for each in status["models"] if each["name"] == model]


def counted(served: RayServer, model: str) -> int:
    return sum(each["requests_answered"] for each in described(served, model))


@contextmanager
def load(served: RayServer) -> Iterator[list[Any]]:
    """Requests by OpenAI's SDK, of two clients for each model, and what came of each."""
    results: list[Any] = []
    ending = threading.Event()

    def work(model: str) -> None:
        with OpenAI(base_url=f"{served.url}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
            while not ending.is_set():
                try:
                    done = client.embeddings.create(model=model, input=TEXTS * REPEATS)
                    results.append(len(done.data))
                except Exception as error:
                    results.append(error)

    with ThreadPoolExecutor(2 * len(MODELS)) as pool:
        futures = [pool.submit(work, model) for model in MODELS * 2]
        try:
            yield results
        finally:
            ending.set()
    for future in futures:
        future.result()


def test_no_request_fails_when_a_replica_dies(served: RayServer) -> None:
    """Meanwhile the other one has more models to serve than places, all of them in use."""
    import ray

    before = set(served.replicas())
    body = {"model": MODELS[2], "input": "x"}
    victim = served.client.post("/v1/embeddings", json=body).headers["x-served-by"]
    with load(served) as results:
        for _ in within_time():
            if len(results) > 6:
                break
        named = ray.util.list_named_actors(all_namespaces=True)
        [name] = [each["name"] for each in named if each["name"].endswith(f"#{victim}")]
        ray.kill(ray.get_actor(name, namespace="serve"))
        count = len(results)
        for _ in within_time():
            now = set(served.replicas())
            if len(now - before) == 1 and victim not in now and len(results) > count + 6:
                break
    assert set(results) == {len(TEXTS) * REPEATS}
    assert victim not in now
    assert len(now - before) == 1
    for _ in within_time():
        if sum(served.metric("ray_appliance_front_retries_total")):
            break
    assert 1 <= sum(served.metric("ray_appliance_front_retries_total")) <= 2 * len(MODELS)


def test_ray_tells_of_each_replica(served: RayServer) -> None:
    for _ in within_time():
        held = served.metric("ray_appliance_models_held")
        if len(held) >= 2 and sum(served.metric("ray_appliance_tokens_embedded_total")) > 0:
            break
    assert all(0 <= value <= HELD for value in held)
    assert sum(served.metric("ray_appliance_tokens_embedded_total")) > 0
    assert len(served.metric("ray_appliance_queue_tokens")) >= 2


def test_what_changes_something_is_not_sent_again(served: RayServer) -> None:
    """The replica dies in the middle of it: whether it was done, only who asked can find out."""
    url = served.database.url
    retried = sum(served.metric("ray_appliance_front_retries_total"))
    waits = (
        "SELECT client_port FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND query ILIKE 'INSERT%'"
    )
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(url) as locking,
        psycopg.connect(url, autocommit=True) as watching,
    ):
        locking.execute("LOCK TABLE tokens IN SHARE MODE")
        asked = {"name": "once", "scopes": ["embed"]}
        making = pool.submit(served.client.post, "/api/tokens", json=asked)
        port = None
        for _ in within_time():
            if (row := watching.execute(waits).fetchone()) is not None:
                port = row[0]
                break
        [replica] = {
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.laddr.port == port and connection.pid is not None
        }
        os.kill(replica, signal.SIGKILL)
        answered = making.result()
    assert answered.status_code == 503
    assert "not known" in answered.json()["error"]["message"]
    assert answered.headers["retry-after"] == "1"
    with psycopg.connect(url) as reading:
        made = reading.execute("SELECT count(*) FROM tokens WHERE name = 'once'").fetchone()
    assert made == (0,)
    assert sum(served.metric("ray_appliance_front_retries_total")) == retried
