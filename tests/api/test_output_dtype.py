# SPDX-License-Identifier: Apache-2.0
"""``output_dtype`` on OpenAI's route, with whatever it may be combined with."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from appliance.engine.calibration import read_calibration
from appliance.engine.jobs import Batch
from appliance.engine.types import FloatMatrix, OutputDtype
from appliance.engine.vectors import finish_vectors, ranges_of
from appliance.settings import ModelSettings, Settings
from tests.conftest import RunningServer, run_in_thread
from tests.fakes import FakeBackend, FakeTokenizer, fake_vector, loading, word_id

MODEL = "fake/model"
DIMENSION = 20
TEXTS = [f"some text number {number}" for number in range(7)]
NUMPY = {"float": "<f4", "int8": "i1", "uint8": "u1", "binary": "i1", "ubinary": "u1"}


def own_vectors(texts: list[str]) -> FloatMatrix:
    """What the fake model says of texts, cut to what it reads."""
    tokenizer = FakeTokenizer()
    return np.stack(
        [
            fake_vector(ids if len(ids) <= 32 else tokenizer.cut(ids, 32, "right"), DIMENSION)
            for ids in tokenizer.encode(texts)
        ]
    )


CORPUS = own_vectors([str(text) for text in read_calibration(None)])


def expected(
    output_dtype: OutputDtype, dimensions: int | None, normalize: bool, corpus: FloatMatrix = CORPUS
) -> np.ndarray:
    return finish_vectors(
        own_vectors(TEXTS),
        dimensions=dimensions,
        normalize=normalize,
        output_dtype=output_dtype,
        ranges=ranges_of(corpus, dimensions=dimensions, normalize=normalize),
    )


def vectors_of(response: httpx.Response, output_dtype: str) -> np.ndarray:
    assert response.status_code == 200, response.text
    embeddings = [item["embedding"] for item in response.json()["data"]]
    kind = NUMPY[output_dtype]
    if isinstance(embeddings[0], str):
        raw = [base64.b64decode(text, validate=True) for text in embeddings]
        return np.array([np.frombuffer(row, kind) for row in raw])
    numbers = float if output_dtype == "float" else int
    assert all(type(number) is numbers for row in embeddings for number in row)
    return np.array(embeddings, dtype=kind)


def serve(model: ModelSettings | None = None, **fake: Any) -> Any:
    settings = Settings(models=(model or ModelSettings(model=MODEL),), cpu_workers=1)
    return run_in_thread(settings, loading(lambda _: FakeBackend(DIMENSION, **fake)))


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serve() as server:
        yield server


@pytest.mark.parametrize(
    ("output_dtype", "dimensions", "normalize", "encoding"),
    list(product(NUMPY, (None, 8, 13), (None, True, False), (None, "float", "base64"))),
)
def test_every_combination(
    server: RunningServer,
    output_dtype: OutputDtype,
    dimensions: int | None,
    normalize: bool | None,
    encoding: str | None,
) -> None:
    fields = {"dimensions": dimensions, "normalize": normalize, "encoding_format": encoding}
    response = server.embed(model=MODEL, input=TEXTS, output_dtype=output_dtype, **fields)
    vectors = vectors_of(response, output_dtype)
    wanted = expected(output_dtype, dimensions, normalize is not False)
    if output_dtype == "float":
        np.testing.assert_allclose(vectors, wanted, atol=1e-6)
    else:
        np.testing.assert_array_equal(vectors, wanted)
    width = dimensions or DIMENSION
    assert vectors.shape[1] == (-(-width // 8) if "binary" in output_dtype else width)


def test_null_is_float(server: RunningServer) -> None:
    response = server.embed(model=MODEL, input=TEXTS, output_dtype=None)
    np.testing.assert_allclose(
        vectors_of(response, "float"), expected("float", None, True), atol=1e-6
    )


def test_large_answers_are_as_good_as_small_ones(server: RunningServer) -> None:
    fields = {"model": MODEL, "output_dtype": "int8", "encoding_format": "base64"}
    large = server.embed(input=TEXTS * 100, **fields)  # encoded off the event loop
    np.testing.assert_array_equal(
        vectors_of(large, "int8"), np.tile(expected("int8", None, True), (100, 1))
    )


def test_vectors_of_two_requests_can_be_compared(server: RunningServer) -> None:
    together = server.embed(model=MODEL, input=TEXTS, output_dtype="int8")
    alone = [server.embed(model=MODEL, input=text, output_dtype="int8") for text in TEXTS]
    np.testing.assert_array_equal(
        vectors_of(together, "int8"), np.vstack([vectors_of(one, "int8") for one in alone])
    )


@pytest.mark.parametrize("value", ["int4", "INT8", "float32", "", 8, ["int8"], True])
def test_another_value_is_refused_with_those_that_are_allowed(
    server: RunningServer, value: object
) -> None:
    response = server.embed(model=MODEL, input="a", output_dtype=value)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "output_dtype"
    if isinstance(value, str):
        assert all(repr(name) in error["message"] for name in NUMPY)


@pytest.mark.parametrize("dimensions", [0, DIMENSION + 1])
@pytest.mark.parametrize("output_dtype", ["int8", "binary"])
def test_dimensions_out_of_range_are_refused(
    server: RunningServer, dimensions: int, output_dtype: str
) -> None:
    response = server.embed(
        model=MODEL, input="a", output_dtype=output_dtype, dimensions=dimensions
    )
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "dimensions"


class Counted:
    """Counts the texts that the model is given."""

    def __init__(self) -> None:
        self.texts = 0

    def __call__(self, batch: Batch) -> None:
        self.texts += len(batch)


def test_the_corpus_is_embedded_at_first_need_and_once() -> None:
    counted = Counted()
    fields = [
        {"output_dtype": kind, "dimensions": size} for kind in ("int8", "uint8") for size in (8, 13)
    ] * 4
    with serve(before_forward=counted) as server, ThreadPoolExecutor(len(fields)) as pool:
        server.embed(model=MODEL, input="a", output_dtype="binary")
        server.embed(model=MODEL, input="a")
        refused = server.embed(model=MODEL, input="word " * 99, output_dtype="int8")
        assert refused.status_code == 400
        assert counted.texts == 2
        asked = [pool.submit(server.embed, model=MODEL, input=TEXTS, **own) for own in fields]
        answers = [answer.result() for answer in asked]
    for own, answer in zip(fields, answers, strict=True):
        kind, size = own["output_dtype"], own["dimensions"]
        np.testing.assert_array_equal(vectors_of(answer, kind), expected(kind, size, True))
    assert counted.texts == 2 + len(CORPUS) + len(fields) * len(TEXTS)


def test_the_corpus_shares_the_device_with_other_requests() -> None:
    order: list[bool] = []
    both_wait = threading.Event()

    def note(batch: Batch) -> None:
        order.append(word_id("urgent") in batch.input_ids)
        assert both_wait.wait(30)

    model = ModelSettings(model=MODEL, max_batch_tokens=64)
    with serve(model, before_forward=note) as server, ThreadPoolExecutor(2) as pool:
        lane = server.engine.models[0].lane
        first = pool.submit(server.embed, model=MODEL, input="a", output_dtype="int8")
        wait_until(lambda: len(order) == 1)
        other = pool.submit(server.embed, model=MODEL, input="urgent")
        wait_until(lambda: len(lane.queue) == 2)
        both_wait.set()
        assert other.result().status_code == first.result().status_code == 200
    assert len(order) > 20
    assert order.index(True) < 10


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come about")


def test_a_client_that_leaves_takes_nothing_from_the_others() -> None:
    begun, may_go_on = threading.Event(), threading.Event()
    counted = Counted()

    def gate(batch: Batch) -> None:
        counted(batch)
        begun.set()
        assert may_go_on.wait(30)

    with serve(before_forward=gate) as server:
        body = json.dumps({"model": MODEL, "input": "a", "output_dtype": "int8"}).encode()
        host, port = server.url.removeprefix("http://").split(":")
        leaving = socket.create_connection((host, int(port)))
        leaving.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            + f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        assert begun.wait(30)
        leaving.close()
        threading.Timer(0.1, may_go_on.set).start()
        response = server.embed(model=MODEL, input=TEXTS, output_dtype="int8")
    np.testing.assert_array_equal(vectors_of(response, "int8"), expected("int8", None, True))
    assert counted.texts <= len(CORPUS) + len(TEXTS) + 1


def test_a_failure_is_told_and_the_next_request_tries_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = threading.Event()
    broken.set()

    def fail(batch: Batch) -> None:
        if broken.is_set() and batch.lengths.max() > 3:  # longer than the one text below
            raise ValueError("no luck")

    with serve(before_forward=fail) as server:
        told = server.embed(model=MODEL, input="a", output_dtype="int8")
        assert told.status_code == 500
        assert server.embed(model=MODEL, input="a", output_dtype="binary").status_code == 200
        broken.clear()
        again = server.embed(model=MODEL, input=TEXTS, output_dtype="int8")
    np.testing.assert_array_equal(vectors_of(again, "int8"), expected("int8", None, True))
    assert "calibration" in caplog.text


def test_texts_of_ones_own(tmp_path: Path) -> None:
    texts = [f"mine number {number}" for number in range(120)]
    (tmp_path / "mine.txt").write_text("\n".join(texts))
    model = ModelSettings(model=MODEL, calibration=tmp_path / "mine.txt")
    with serve(model) as server:
        response = server.embed(model=MODEL, input=TEXTS, output_dtype="int8", dimensions=13)
    np.testing.assert_array_equal(
        vectors_of(response, "int8"), expected("int8", 13, True, own_vectors(texts))
    )


def test_prompts_go_before_the_texts_as_before_those_of_a_plain_request() -> None:
    model = ModelSettings(
        model=MODEL, prompts={"mine": "own: "}, default_prompt_name="mine", truncate=True
    )
    prompted = own_vectors([f"own: {text}" for text in read_calibration(None)])
    with serve(model) as server:
        response = server.embed(model=MODEL, input=TEXTS, output_dtype="uint8", prompt="")
    np.testing.assert_array_equal(
        vectors_of(response, "uint8"), expected("uint8", None, True, prompted)
    )


def test_ranges_of_ones_own(tmp_path: Path) -> None:
    ranges = np.array([[-0.5] * DIMENSION, [0.5] * DIMENSION], dtype=np.float32)
    np.save(tmp_path / "ranges.npy", ranges)
    model = ModelSettings(model=MODEL, calibration=tmp_path / "ranges.npy")
    with serve(model) as server:
        response = server.embed(model=MODEL, input=TEXTS, output_dtype="int8")
        restored = (
            ranges[0] + (vectors_of(response, "int8") + 128.5) * (ranges[1] - ranges[0]) / 255
        )
        unit = expected("float", None, True)
        np.testing.assert_allclose(restored, np.clip(unit, -0.5, 0.5), atol=0.51 / 255)
        for field, value in (("dimensions", 8), ("normalize", False)):
            refused = server.embed(model=MODEL, input="a", output_dtype="int8", **{field: value})
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == field
            assert "calibration" in refused.json()["error"]["message"]
            other = server.embed(model=MODEL, input="a", output_dtype="binary", **{field: value})
            assert other.status_code == 200


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("absent.txt", None, "No such file"), ("few.txt", b"a\nb", "must hold 100")],
)
def test_a_file_that_will_not_do_is_told_at_the_start(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    settings = Settings(
        models=(ModelSettings(model=MODEL), ModelSettings(model="other", calibration=file))
    )
    with run_in_thread(settings, loading(lambda _: FakeBackend(DIMENSION)), wait=False) as server:
        response = server.embed(model="other", input="a")
        assert response.status_code == 503
        error = response.json()["error"]["message"]
        assert f"calibration: {file}" in error
        assert server.embed(model=MODEL, input="a").status_code == 200
