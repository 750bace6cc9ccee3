# SPDX-License-Identifier: Apache-2.0
"""Have a batch of many inputs embedded by a server that is killed half-way, and check every row.

    python scripts/soak_batches.py

Sends one input a request through the OpenAI SDK's `client.batches`, kills the server (SIGKILL) when
half of them are done, starts it again in the same folder, and waits for the end. Each row must be
there once, with the vector that `/v1/embeddings` gives for the text. Ends with 1 if one is not.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from bench_lib.load import make_load
from bench_lib.machine import machine_line
from bench_lib.options import weights
from bench_lib.own_server import serve
from bench_lib.servers import MODEL
from openai import OpenAI
from openai.types import Batch

MODELS = [{"model": f"embedded:{MODEL}"}]
POLL_SECONDS = 0.5
AT_ONCE = 256
TOLERANCE = 1e-5
ENDED = ("completed", "failed", "expired", "cancelled")

Vectors = npt.NDArray[np.float64]


def client_of(url: str) -> OpenAI:
    """The SDK, pointed at a server."""
    return OpenAI(base_url=f"{url}/v1", api_key="none")


def line_of(number: int, text: str) -> bytes:
    """One request of the batch's input."""
    request = {
        "custom_id": f"request-{number}",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": MODEL, "input": text},
    }
    return json.dumps(request).encode() + b"\n"


def begin(client: OpenAI, texts: Sequence[str]) -> str:
    """Hand the texts in; the batch's id."""
    content = b"".join(line_of(number, text) for number, text in enumerate(texts))
    file = client.files.create(file=("input.jsonl", content), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
    )
    return batch.id


def wait_for(client: OpenAI, batch_id: str, done: int) -> Batch:
    """Wait until so many requests are done, or the batch has ended."""
    while True:
        batch = client.batches.retrieve(batch_id)
        counts = batch.request_counts
        if batch.status in ENDED or (counts is not None and counts.completed >= done):
            return batch
        time.sleep(POLL_SECONDS)


def rows_of(client: OpenAI, batch: Batch) -> list[tuple[str, Vectors]]:
    """Name and vector of each row of the output."""
    assert batch.output_file_id is not None, batch
    rows = map(json.loads, client.files.content(batch.output_file_id).text.splitlines())
    return [
        (row["custom_id"], np.array(row["response"]["body"]["data"][0]["embedding"]))
        for row in rows
    ]


def live(client: OpenAI, texts: Sequence[str]) -> list[Vectors]:
    """The vectors that the route gives."""
    found: list[Vectors] = []
    for start in range(0, len(texts), AT_ONCE):
        answer = client.embeddings.create(model=MODEL, input=list(texts[start : start + AT_ONCE]))
        found += [np.array(item.embedding) for item in answer.data]
    return found


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    texts = make_load(weights(), options.inputs, options.seed, "short").texts
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        with serve(MODELS, data_dir=folder, may_be_killed=True) as server:
            client = client_of(server.url)
            batch_id = begin(client, texts)
            half = wait_for(client, batch_id, len(texts) // 2)
            os.kill(server.pid, signal.SIGKILL)
            print(f"killed at {half.request_counts}, after {time.monotonic() - started:.0f} s")
        with serve(MODELS, data_dir=folder) as server:
            client = client_of(server.url)
            batch = wait_for(client, batch_id, len(texts))
            while batch.status not in ENDED:
                batch = wait_for(client, batch_id, sys.maxsize)
            print(f"{batch.status}: {batch.request_counts}, {time.monotonic() - started:.0f} s")
            rows, expected = rows_of(client, batch), live(client, texts)
    names = [name for name, _ in rows]
    is_whole = names == [f"request-{number}" for number in range(len(texts))]
    error = max(
        float(np.abs(vector - right).max())
        for (_, vector), right in zip(rows, expected, strict=False)
    )
    print(f"rows: {len(rows)}, each once and in order: {is_whole}; largest error {error:.1e}")
    print(f"- {machine_line({})}")
    return int(not is_whole or error > TOLERANCE or batch.status != "completed")


if __name__ == "__main__":
    sys.exit(main())
