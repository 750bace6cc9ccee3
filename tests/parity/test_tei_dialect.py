# SPDX-License-Identifier: Apache-2.0
"""What TEI's routes answer with is what sentence-transformers gives, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.sparse_encoder.modules import SpladePooling
from torch.nn import Identity, Sigmoid

from appliance.settings import ModelSettings, Settings
from tests.conftest import RunningServer, run_in_thread
from tests.parity.families import FAMILIES
from tests.parity.reference import REAL, TEXTS
from tests.parity.tiny import build_classifier, build_splade

QUERY = "Who jumps over the lazy dog?"
LABELS = ("negative", "neutral", "positive")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    bert = FAMILIES["bert"]
    return {
        "reranker": build_classifier(tmp_path_factory.mktemp("reranker"), bert),
        "classifier": build_classifier(tmp_path_factory.mktemp("classifier"), bert, LABELS),
        "splade": build_splade(tmp_path_factory.mktemp("splade"), bert, SpladePooling("max")),
    }


@pytest.fixture(scope="module")
def server(folders: dict[str, Path]) -> Iterator[RunningServer]:
    fields = [
        {"model": REAL, "name": "minilm"},
        *({"model": str(folder), "name": name} for name, folder in folders.items()),
    ]
    models = [ModelSettings(device_map="cpu", dtype="float32", **more) for more in fields]
    with run_in_thread(Settings(models=tuple(models)), load=None) as running:
        yield running


def told(server: RunningServer, path: str, **body: Any) -> Any:
    answer = httpx.post(server.url + path, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def minilm(real_folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(real_folder), device="cpu", local_files_only=True)


def cosines(minilm: SentenceTransformer) -> Any:
    """Of the query with each text."""
    return minilm.similarity(minilm.encode([QUERY]), minilm.encode(list(TEXTS)))[0].numpy()


def assert_near(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=0, atol=TOLERANCE)


def test_embed(server: RunningServer, minilm: SentenceTransformer) -> None:
    assert_near(told(server, "/embed", inputs=TEXTS), minilm.encode(list(TEXTS)))


def test_embed_all(server: RunningServer, minilm: SentenceTransformer) -> None:
    found = told(server, "/embed_all", inputs=TEXTS[:4])
    expected = minilm.encode(list(TEXTS[:4]), output_value="token_embeddings")
    for ours, theirs in zip(found, expected, strict=True):
        assert_near(ours, theirs[: len(ours)].numpy())


def test_similarity(server: RunningServer, minilm: SentenceTransformer) -> None:
    inputs = {"source_sentence": QUERY, "sentences": TEXTS}
    assert_near(told(server, "/similarity", inputs=inputs), cosines(minilm))


def test_tokens_come_and_go(server: RunningServer, minilm: SentenceTransformer) -> None:
    tokens = told(server, "/tokenize", inputs=QUERY)[0]
    ids = [token["id"] for token in tokens]
    assert ids == minilm.tokenizer(QUERY)["input_ids"]
    for token in tokens[1:-1]:
        assert QUERY[token["start"] : token["stop"]] == token["text"]
    expected = minilm.tokenizer.decode(ids, skip_special_tokens=True)
    assert told(server, "/decode", ids=ids) == [expected]
    assert told(server, "/embed", inputs=ids) == told(server, "/embed", inputs=QUERY)


def test_embed_sparse(server: RunningServer, folders: dict[str, Path]) -> None:
    reference = SparseEncoder(str(folders["splade"]), device="cpu", local_files_only=True)
    expected = reference.encode(list(TEXTS), convert_to_sparse_tensor=False).numpy()
    found = np.zeros_like(expected)
    for row, words in zip(found, told(server, "/splade/embed_sparse", inputs=TEXTS), strict=True):
        for word in words:
            row[word["index"]] = word["value"]
    assert_near(found, expected)


@pytest.mark.parametrize("raw", [False, True])
def test_rerank(server: RunningServer, folders: dict[str, Path], raw: bool) -> None:
    reference = CrossEncoder(str(folders["reranker"]), device="cpu", local_files_only=True)
    activation = Identity() if raw else Sigmoid()
    expected = reference.predict([(QUERY, text) for text in TEXTS], activation_fn=activation)
    found = told(server, "/reranker/rerank", query=QUERY, texts=TEXTS, raw_scores=raw)
    scores = [rank["score"] for rank in found]
    assert scores == sorted(scores, reverse=True)
    assert_near(scores, expected[[rank["index"] for rank in found]])


@pytest.mark.parametrize("raw", [False, True])
def test_predict(server: RunningServer, folders: dict[str, Path], raw: bool) -> None:
    reference = CrossEncoder(str(folders["classifier"]), device="cpu", local_files_only=True)
    pairs = [[QUERY, text] for text in TEXTS]
    expected = reference.predict(pairs, activation_fn=Identity(), apply_softmax=not raw)
    found = told(server, "/classifier/predict", inputs=pairs, raw_scores=raw)
    for row, scores in zip(found, expected, strict=True):
        by_label = {prediction["label"]: prediction["score"] for prediction in row}
        assert_near([by_label[label] for label in LABELS], scores)


def test_rerank_in_the_common_shape(
    server: RunningServer, folders: dict[str, Path], minilm: SentenceTransformer
) -> None:
    reference = CrossEncoder(str(folders["reranker"]), device="cpu", local_files_only=True)
    scores = reference.predict([(QUERY, t) for t in TEXTS], activation_fn=Sigmoid())
    for model, expected in (("reranker", scores), ("minilm", cosines(minilm))):
        found = told(server, "/v1/rerank", model=model, query=QUERY, documents=TEXTS)["results"]
        order = [result["index"] for result in found]
        assert_near([result["relevance_score"] for result in found], expected[order])
        assert_near(expected[order], np.sort(expected)[::-1])
