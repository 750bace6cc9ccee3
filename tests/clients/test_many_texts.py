# SPDX-License-Identifier: Apache-2.0
"""Large and concurrent requests to the real model: order kept, vectors as if sent alone."""

from __future__ import annotations

import asyncio
import random

import httpx
import numpy as np

from tests.conftest import REAL_MODEL, RunningServer

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


async def test_a_thousand_texts_in_one_request(real_server: RunningServer) -> None:
    texts = mixed_texts(1000, seed=1)
    async with httpx.AsyncClient(base_url=real_server.url, timeout=300) as client:
        together = await embed(client, texts)
        sample = random.Random(2).sample(range(1000), 100)
        alone = [await embed(client, [texts[position]]) for position in sample]
    assert least_cosine(together[sample], np.vstack(alone)) >= 0.99999


async def test_sixty_four_clients_at_once(real_server: RunningServer) -> None:
    texts = [mixed_texts(5, seed=100 + number) for number in range(64)]
    limits = httpx.Limits(max_connections=64)
    async with httpx.AsyncClient(base_url=real_server.url, timeout=300, limits=limits) as client:
        at_once = await asyncio.gather(*(embed(client, own) for own in texts))
        alone = [[await embed(client, [text]) for text in own] for own in texts]
    for together, apart in zip(at_once, alone, strict=True):
        assert least_cosine(together, np.vstack(apart)) >= 0.99999
