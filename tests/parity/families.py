# SPDX-License-Identifier: Apache-2.0
"""Families of models, each as a config so small that it is made and run in a moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import (
    AlbertConfig,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    EmbeddingGemma2TextConfig,
    EuroBertConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GteConfig,
    JinaEmbeddingsV3Config,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    MPNetConfig,
    NomicBertConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
)

from tests.parity.vocabularies import DECODER, ROBERTA, WORDPIECE, Vocabulary

Config = Callable[[int, int], PretrainedConfig]
"""Makes a config for a vocabulary's size and the padding token's id."""


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Attributes:
        config: Makes its config.
        vocabulary: Its tokenizer.
        packed: Whether texts can run end to end.
        pooling: The pooling that such models usually have.
        padding_side: Where sentence-transformers pads.
    """

    config: Config
    vocabulary: Vocabulary
    packed: bool = True
    pooling: str = "mean"
    padding_side: str = "right"


LONGEST = 128
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": LONGEST,
    "initializer_range": 0.2,  # large, so that attention is far from even and a mix-up shows
}
# Their first positions are taken by what lies before and at the padding id.
ROBERTA_SIZES = {**SIZES, "max_position_embeddings": LONGEST + 2}
DECODER_SIZES = {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "eos_token_id": 1}
# Where rounding to bfloat16 piles up, as the last token's vector is an average of nothing.
MILD_DECODER_SIZES = {**DECODER_SIZES, "initializer_range": 0.1}


def _config(kind: type[PretrainedConfig], **fields: Any) -> Config:
    return lambda vocabulary, padding: kind(vocab_size=vocabulary, pad_token_id=padding, **fields)


FAMILIES = {
    "bert": Family(_config(BertConfig, **SIZES), WORDPIECE),
    "nomic-bert": Family(_config(NomicBertConfig, **SIZES), WORDPIECE),
    "distilbert": Family(
        _config(
            DistilBertConfig,
            dim=32,
            hidden_dim=64,
            n_layers=3,
            n_heads=4,
            max_position_embeddings=LONGEST,
            initializer_range=0.2,
        ),
        WORDPIECE,
    ),
    "modernbert": Family(
        _config(
            ModernBertConfig,
            local_attention=8,
            global_attn_every_n_layers=2,
            bos_token_id=2,
            cls_token_id=2,
            eos_token_id=3,
            sep_token_id=3,
            **{**SIZES, "initializer_range": 0.1},
        ),
        WORDPIECE,
        pooling="cls",
    ),
    "roberta": Family(_config(RobertaConfig, **ROBERTA_SIZES), ROBERTA, pooling="cls"),
    "xlm-roberta": Family(_config(XLMRobertaConfig, **ROBERTA_SIZES), ROBERTA),
    "mpnet": Family(_config(MPNetConfig, **ROBERTA_SIZES), ROBERTA, packed=False),
    "deberta-v2": Family(
        _config(
            DebertaV2Config,
            relative_attention=True,
            position_buckets=16,
            pos_att_type=["p2c", "c2p"],
            **SIZES,
        ),
        WORDPIECE,
        packed=False,
    ),
    "t5": Family(
        _config(T5Config, d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4),
        DECODER,
        packed=False,
    ),
    "qwen3": Family(
        _config(Qwen3Config, **DECODER_SIZES),
        DECODER,
        pooling="lasttoken",
        padding_side="left",
    ),
    "qwen3-sliding": Family(
        _config(
            Qwen3Config,
            use_sliding_window=True,
            sliding_window=8,
            max_window_layers=1,
            **DECODER_SIZES,
        ),
        DECODER,
        pooling="lasttoken",
        padding_side="left",
    ),
    "gemma3": Family(
        _config(
            Gemma3TextConfig,
            use_bidirectional_attention=True,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            bos_token_id=1,
            **DECODER_SIZES,
        ),
        DECODER,
    ),
    "gemma2": Family(
        # It limits its scores, which the packed way does not.
        _config(Gemma2Config, attn_logit_softcapping=2.0, sliding_window=8, **DECODER_SIZES),
        DECODER,
        packed=False,
        pooling="lasttoken",
    ),
    "embedding-gemma2": Family(
        _config(
            EmbeddingGemma2TextConfig,
            embedding_dim=48,
            global_head_dim=16,
            hidden_size_per_layer_input=8,
            sliding_window=8,
            sliding_window_pattern=2,
            **{**DECODER_SIZES, "num_hidden_layers": 2},
        ),
        DECODER,
    ),
    "llama": Family(
        _config(LlamaConfig, **DECODER_SIZES), DECODER, pooling="lasttoken", padding_side="left"
    ),
    "llama-bidirectional": Family(_config(LlamaConfig, is_causal=False, **DECODER_SIZES), DECODER),
    "mistral": Family(
        _config(MistralConfig, sliding_window=8, **MILD_DECODER_SIZES),
        DECODER,
        pooling="lasttoken",
    ),
    "qwen2": Family(
        _config(Qwen2Config, **MILD_DECODER_SIZES),
        DECODER,
        pooling="lasttoken",
        padding_side="left",
    ),
    "qwen2-bidirectional": Family(
        _config(Qwen2Config, is_causal=False, **MILD_DECODER_SIZES),
        DECODER,
        pooling="lasttoken",
        padding_side="left",
    ),
    "gpt-neox": Family(_config(GPTNeoXConfig, **SIZES), DECODER, pooling="weightedmean"),
    "eurobert": Family(_config(EuroBertConfig, bos_token_id=2, **DECODER_SIZES), WORDPIECE),
    "gte": Family(_config(GteConfig, **SIZES), WORDPIECE, pooling="cls"),
    "jina-embeddings-v3": Family(_config(JinaEmbeddingsV3Config, **SIZES), ROBERTA),
    "electra": Family(_config(ElectraConfig, embedding_size=16, **SIZES), WORDPIECE),
    "albert": Family(_config(AlbertConfig, embedding_size=16, **SIZES), WORDPIECE),
    "camembert": Family(_config(CamembertConfig, **ROBERTA_SIZES), ROBERTA),
}

SPLADE_FAMILIES = ("bert", "distilbert", "modernbert", "xlm-roberta", "deberta-v2")
"""Families whose masked language models are tried as SPLADE."""
