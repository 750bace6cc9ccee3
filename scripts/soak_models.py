# SPDX-License-Identifier: Apache-2.0
"""Serve more models than fit, to many clients at once, and check every answer.

    python scripts/soak_models.py

Builds small BERT models of random weights beside the embedded real one, serves them all with a
budget for a few, and has clients ask for models at random. Each vector is compared with the one
that a server with room for all models gave. Prints Markdown: what was asked, what moved, and the
longest wait beside the bound that the scheduler promises.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
from bench_lib.load import make_load
from bench_lib.machine import machine_line
from bench_lib.options import weights
from bench_lib.own_server import serve
from bench_lib.servers import MODEL

from appliance.engine.residency import TURN_PER_RETURN

Vectors = npt.NDArray[np.float32]

TOLERANCE = 1e-5
"""Largest difference of a value to that of another batch: rounding."""
TEXTS = 64
MOVES_OF_A_TURN = 5
"""Moves that a turn may have to wait for, as the scheduler's property tests count them."""
MIB = 2**20


@dataclass
class Tally:
    """What the clients saw."""

    requests: int = 0
    texts: int = 0
    worst: float = 0.0
    faults: list[str] = field(default_factory=list)
    queue_seconds: list[float] = field(default_factory=list)
    batch_seconds: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def build_models(folder: Path, count: int) -> dict[str, Path]:
    """Write BERT models of random weights, with the real model's tokenizer."""
    import torch
    from transformers import BertConfig, BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]

    config = BertConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    models = {}
    for number in range(count):
        torch.manual_seed(number)
        path = folder / f"random-{number}"
        BertModel(config, add_pooling_layer=False).save_pretrained(path)
        for file in weights().glob("*token*"):
            shutil.copy(file, path)
        shutil.copy(weights() / "vocab.txt", path)
        models[path.name] = path
    return models


def vectors_of(answer: httpx.Response) -> Vectors:
    rows = [base64.b64decode(item["embedding"]) for item in answer.json()["data"]]
    return np.stack([np.frombuffer(row, dtype="<f4") for row in rows])


def body(model: str, texts: Sequence[str]) -> dict[str, Any]:
    return {"model": model, "input": list(texts), "encoding_format": "base64"}


def expected_vectors(url: str, models: Iterable[str], texts: Sequence[str]) -> dict[str, Vectors]:
    """What a server answers to one client."""
    return {
        model: vectors_of(httpx.post(f"{url}/v1/embeddings", json=body(model, texts)))
        for model in models
    }


async def client(
    number: int,
    http: httpx.AsyncClient,
    expected: Mapping[str, Vectors],
    texts: Sequence[str],
    until: float,
    tally: Tally,
) -> None:
    """Ask for models at random, one request after the other, and check each answer."""
    generator = random.Random(number)
    while time.monotonic() < until:
        model = generator.choice(list(expected))
        chosen = [generator.randrange(len(texts)) for _ in range(generator.randint(1, 8))]
        started = time.monotonic()
        answer = await http.post("/v1/embeddings", json=body(model, [texts[i] for i in chosen]))
        tally.seconds.append(time.monotonic() - started)
        tally.requests += 1
        tally.texts += len(chosen)
        if answer.status_code != httpx.codes.OK:
            tally.faults.append(f"{answer.status_code}: {answer.text[:200]}")
            continue
        worst = float(np.abs(vectors_of(answer) - expected[model][chosen]).max())
        tally.worst = max(tally.worst, worst)
        if worst > TOLERANCE:
            tally.faults.append(f"{model}: a vector is off by {worst}")
        timings = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
        tally.queue_seconds.append(float(timings["queue"]) / 1000)
        tally.batch_seconds.append(float(timings["forward"]) / 1000)


async def soak(
    url: str, expected: Mapping[str, Vectors], texts: Sequence[str], clients: int, seconds: float
) -> Tally:
    """So many clients for so long."""
    tally = Tally()
    until = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
        await asyncio.gather(
            *(client(n, http, expected, texts, until, tally) for n in range(clients))
        )
    return tally


def report(options: argparse.Namespace, tally: Tally, roomy: Tally, status: dict[str, Any]) -> str:
    """What came of it, as Markdown.

    Args:
        options: What was asked for.
        tally: With the budget.
        roomy: Without.
        status: The limited server's own account, at the end.
    """
    swaps = status["swaps"]
    behind = "none" if options.tier == "source" else options.tier
    moves = [m["longest_seconds"] for m in swaps if {m["from"], m["to"]} == {behind, "device"}]
    move = max(moves, default=0.0)
    models = options.models + 1
    turn = max(options.turn, TURN_PER_RETURN * move)
    bound = models * (turn + max(tally.batch_seconds) + MOVES_OF_A_TURN * move)
    queue = sorted(tally.queue_seconds)
    lines = [
        (
            f"{machine_line({})}; {models} models, {options.budget} MiB for weights,"
            f" {options.tier} behind, {options.clients} clients for {options.seconds:.0f} s,"
            f" {TEXTS} different texts, 1 to 8 a request; turn {options.turn} s."
        ),
        "",
        (
            f"- {tally.requests} requests, {tally.texts} texts, {len(tally.faults)} faults; largest"
            f" difference of a value {tally.worst:.1e}"
        ),
        (
            f"- {tally.texts / options.seconds:.0f} texts/s; with room for all models"
            f" {roomy.texts / options.seconds:.0f}, {tally.texts / roomy.texts:.2f} of which"
        ),
        (
            f"- time of a request: median {statistics.median(tally.seconds) * 1000:.0f} ms, p99"
            f" {np.percentile(tally.seconds, 99) * 1000:.0f} ms, longest {max(tally.seconds):.2f} s"
        ),
        (
            f"- of it in the queue: median {statistics.median(queue) * 1000:.0f} ms, p99"
            f" {np.percentile(queue, 99) * 1000:.0f} ms, longest {queue[-1]:.2f} s;"
            f" the bound for {models} models is {bound:.2f} s"
        ),
        "",
        "| from | to | times | MiB | seconds | mean ms | longest ms |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {m['from']} | {m['to']} | {m['times']} | {m['bytes'] / MIB:.0f} | {m['seconds']:.2f}"
        f" | {m['seconds'] / m['times'] * 1000:.1f} | {m['longest_seconds'] * 1000:.1f} |"
        for m in swaps
    ]
    return "\n".join([*lines, *(f"- {fault}" for fault in (*tally.faults, *roomy.faults)[:20])])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", type=int, default=12, help="of random weights (%(default)s)")
    parser.add_argument("--budget", type=int, default=200, help="MiB for weights (%(default)s)")
    parser.add_argument("--clients", type=int, default=64, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=120, help="(%(default)s)")
    parser.add_argument("--turn", type=float, default=0.5, help="turn_seconds (%(default)s)")
    parser.add_argument("--tier", choices=("disk", "source"), default="disk", help="(%(default)s)")
    options = parser.parse_args()
    texts = make_load(weights(), TEXTS, seed=0).texts
    with tempfile.TemporaryDirectory() as folder:
        built = build_models(Path(folder), options.models)
        models = {MODEL: f"embedded:{MODEL}", **{n: str(path) for n, path in built.items()}}
        entries = [{"model": source, "name": name} for name, source in models.items()]
        with serve(entries) as server:
            expected = expected_vectors(server.url, models, texts)
            roomy = asyncio.run(soak(server.url, expected, texts, options.clients, options.seconds))
        limited = {
            "max_cuda_memory_gib": options.budget / 1024,
            "disk_swap": options.tier == "disk",
            "turn_seconds": options.turn,
        }
        with serve(entries, **limited) as server:
            tally = asyncio.run(soak(server.url, expected, texts, options.clients, options.seconds))
            status = httpx.get(f"{server.url}/api/status").json()
    print(report(options, tally, roomy, status))
    return 1 if tally.faults or roomy.faults else 0


if __name__ == "__main__":
    sys.exit(main())
