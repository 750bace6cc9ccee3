# SPDX-License-Identifier: Apache-2.0
"""Large and concurrent requests to the real model: order kept, vectors as if sent alone."""

from __future__ import annotations

import asyncio
import random

import httpx
import numpy as np

from tests.conftest import REAL_MODEL, RunningServer

CLIENTS = 64
WORDS = "river stone light house green apple seven under music paper glass winter".split()


def mixed_texts(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return [
        " ".join(generator.choices(WORDS, k=min(240, int(generator.lognormvariate(2.5, 1)) + 1)))
        for _ in range(count)
    ]


async def embed(client: httpx.AsyncClient, texts: list[str]) -> np.ndarray:
    response = await client.post("/v1/embeddings", json={"model": REAL_MODEL, "input": texts})
    assert response.status_code == 200, response.text
    data = response.json()["data"]
    assert [item["index"] for item in data] == list(range(len(texts)))
    return np.array([item["embedding"] for item in data], dtype=np.float32)


def least_cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float((first * second).sum(axis=1).min())


async def test_a_thousand_texts_in_one_request_and_of_sixty_four_clients(
    real_server: RunningServer,
) -> None:
    texts = mixed_texts(1000, seed=1)
    own = [texts[start : start + 5] for start in range(0, 5 * CLIENTS, 5)]
    sample = random.Random(2).sample(range(1000), 50)
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=real_server.url, timeout=300, limits=limits) as client:
        together = await embed(client, texts)
        alone = [await embed(client, [texts[position]]) for position in sample]
        at_once = await asyncio.gather(*(embed(client, few) for few in own))
    assert least_cosine(together[sample], np.vstack(alone)) >= 0.99999
    assert least_cosine(together[: 5 * CLIENTS], np.vstack(at_once)) >= 0.99999
