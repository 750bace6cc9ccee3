# SPDX-License-Identifier: Apache-2.0
"""What the tests of files and batches share."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
from openai.types import Batch, FileObject

from appliance.settings import ModelSettings, Settings
from tests.conftest import RunningServer
from tests.fakes import FakeTokenizer, fake_vector

MODEL = "fake/model"
ENDED = ("failed", "completed", "expired", "cancelled")
PATIENCE = 60.0


def keeping(folder: Path, **more: Any) -> Settings:
    """Settings under which files can be kept."""
    return Settings(**{"models": (ModelSettings(model=MODEL),), "data_dir": folder, **more})


def client_of(server: RunningServer, key: str = "unused") -> openai.OpenAI:
    """OpenAI's SDK; it keeps no connection, so that nothing is left to close."""
    http = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0))
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, http_client=http)


def line(number: int, **body: Any) -> dict[str, Any]:
    """A request; its text is told by its number."""
    body = {"model": MODEL, "input": f"text {number}", **body}
    return {
        "custom_id": f"request-{number}",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": body,
    }


def lines_of(*requests: dict[str, Any] | bytes) -> bytes:
    return b"".join(
        (request if isinstance(request, bytes) else json.dumps(request).encode()) + b"\n"
        for request in requests
    )


def upload(client: openai.OpenAI, content: bytes, name: str = "input.jsonl") -> FileObject:
    return client.files.create(file=(name, content), purpose="batch")


def begin(client: openai.OpenAI, content: bytes, **more: Any) -> Batch:
    """Make a batch."""
    return client.batches.create(
        input_file_id=upload(client, content).id,
        endpoint="/v1/embeddings",
        completion_window="24h",
        **more,
    )


def wait_for(
    client: openai.OpenAI, batch_id: str, until: Callable[[Batch], bool], seconds: float = PATIENCE
) -> Batch:
    """Ask for a batch again and again, until it is as is wanted."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        batch = client.batches.retrieve(batch_id)
        if until(batch):
            return batch
        time.sleep(0.05)
    raise AssertionError(batch)


def end(client: openai.OpenAI, batch: Batch, seconds: float = PATIENCE) -> Batch:
    """Wait until a batch has ended."""
    return wait_for(client, batch.id, lambda batch: batch.status in ENDED, seconds)


def rows_of(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The rows of a file of results."""
    assert file_id is not None
    text = client.files.content(file_id).text
    assert text.endswith("\n")
    return [json.loads(row) for row in text.splitlines()]


def assert_right(rows: Iterable[dict[str, Any]], numbers: Iterable[int]) -> None:
    """That there is a row for each request, once and in their order, with its vector."""
    numbers = list(numbers)
    rows = list(rows)
    assert [row["custom_id"] for row in rows] == [f"request-{number}" for number in numbers]
    assert len({row["id"] for row in rows}) == len(rows)
    for number, row in zip(numbers, rows, strict=True):
        (ids,) = FakeTokenizer().encode([f"text {number}"])
        expected = fake_vector(ids)
        (found,) = row["response"]["body"]["data"]
        np.testing.assert_allclose(
            found["embedding"], expected / np.linalg.norm(expected), atol=1e-6
        )
