# SPDX-License-Identifier: Apache-2.0
"""Tiny models of random weights, written as sentence-transformers does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from tests.parity.families import LONGEST, Family
from tests.parity.vocabularies import WORDPIECE, wordpiece

PROMPTS = {"query": "Look for this: ", "document": "text "}


def build(
    folder: Path,
    family: Family,
    *more: torch.nn.Module,
    pooling: Any = None,
    pools_prompt: bool = True,
    longest: int | None = LONGEST,
    added: Sequence[str] = (),
    before: Sequence[torch.nn.Module] = (),
    padding_side: str | None = None,
) -> Path:
    """Write a tiny model as sentence-transformers does.

    Args:
        folder: An empty folder.
        family: What kind of model.
        more: Modules behind the pooling.
        pooling: Another pooling than the family's.
        pools_prompt: Whether the prompt's own tokens count in the vector.
        longest: The longest input that the tokenizer's files state.
        added: Tokens that were added to the tokenizer after the model was made.
        before: Modules before the pooling.
        padding_side: Another side than the family's for sentence-transformers to pad on.

    Returns:
        The model's folder.
    """
    plain = folder / "plain"
    config = _write_plain(plain, family, AutoModel, longest, added, padding_side)
    hidden_size = getattr(config, "embedding_dim", config.hidden_size)
    pool = Pooling(hidden_size, pooling or family.pooling, include_prompt=pools_prompt)
    SentenceTransformer(
        modules=[Transformer(str(plain)), *before, pool, *more],
        prompts=PROMPTS,
        default_prompt_name="document",
        device="cpu",
    ).save(str(folder / "model"))
    return folder / "model"


def build_splade(folder: Path, family: Family, pooling: torch.nn.Module | None = None) -> Path:
    """Write a tiny SPLADE model.

    Args:
        folder: An empty folder.
        family: What kind of model.
        pooling: Written as sentence-transformers does; without it, the folder is transformers'.

    Returns:
        The model's folder.
    """
    plain = folder / "plain"
    _write_plain(plain, family, AutoModelForMaskedLM)
    if pooling is None:
        return plain
    transformer = Transformer(str(plain), transformer_task="fill-mask")
    SparseEncoder(modules=[transformer, pooling], device="cpu").save(str(folder / "model"))
    return folder / "model"


def build_classifier(
    folder: Path,
    family: Family,
    labels: Sequence[str] = ("LABEL_0",),
    *,
    plain: bool = False,
    **changes: Any,
) -> Path:
    """Write a tiny model that classifies texts or scores pairs.

    Args:
        folder: An empty folder.
        family: What kind of model.
        labels: Its labels.
        plain: As transformers writes it, not as sentence-transformers does.
        changes: Fields of its config that are not the family's.

    Returns:
        The model's folder.
    """
    changes["id2label"] = dict(enumerate(labels))
    _write_plain(
        folder / "plain",
        family,
        AutoModelForSequenceClassification,
        token_types=family.vocabulary is WORDPIECE,
        changes=changes,
    )
    if plain:
        return folder / "plain"
    CrossEncoder(str(folder / "plain"), device="cpu").save_pretrained(str(folder / "model"))
    return folder / "model"


def build_static(folder: Path, *more: torch.nn.Module) -> Path:
    """Write a tiny model of static embeddings as sentence-transformers does.

    Args:
        folder: An empty folder.
        more: Modules behind the table.

    Returns:
        The model's folder.
    """
    torch.manual_seed(0)
    table = StaticEmbedding(wordpiece(), embedding_dim=24)
    SentenceTransformer(modules=[table, *more], device="cpu").save(str(folder / "model"))
    return folder / "model"


def _write_plain(
    folder: Path,
    family: Family,
    architecture: Any,
    longest: int | None = LONGEST,
    added: Sequence[str] = (),
    padding_side: str | None = None,
    *,
    token_types: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> PretrainedConfig:
    """Write a model and its tokenizer as transformers does."""
    vocabulary = family.vocabulary
    tokenizer = vocabulary.make()
    torch.manual_seed(0)
    config = family.config(tokenizer.get_vocab_size(), tokenizer.token_to_id(vocabulary.padding))
    config.update(changes or {})
    architecture.from_config(config).eval().save_pretrained(folder)
    tokenizer.add_tokens(list(added))
    more: dict[str, Any] = {} if longest is None else {"model_max_length": longest}
    if token_types and getattr(config, "type_vocab_size", 2) > 1:
        more["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=vocabulary.padding,
        eos_token=vocabulary.last,
        padding_side=padding_side or family.padding_side,
        **more,
    ).save_pretrained(folder)
    return config
