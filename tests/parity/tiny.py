# SPDX-License-Identifier: Apache-2.0
"""Tiny models of random weights, with tokenizers made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    Gemma3TextConfig,
    ModernBertConfig,
    MPNetConfig,
    NomicBertConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
)

CORPUS = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "Embeddings are vectors; similar texts have similar vectors.",
    "A queue that is fair serves short requests without holding up the long ones.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich!",
    "In 1998, 42 ships sailed from Genoa (Italy) to the Azores.",
)


def wordpiece() -> Tokenizer:
    """A tokenizer of BERT's kind.

    Its vocabulary is put together rather than trained: training orders pieces anew each time.
    """
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    texts = map(normalizer.normalize_str, CORPUS)
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    letters = sorted({letter for word in words for letter in word})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    pieces += [f"##{letter}" for letter in letters]
    pieces += [word for word in words if 1 < len(word) < 6]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def byte_pairs(specials: Sequence[str] = (), template: str = "$A", size: int = 350) -> Tokenizer:
    """A tokenizer of GPT's kind: any text without an unknown token.

    Args:
        specials: Special tokens, which get the first ids.
        template: Where the special tokens stand around a text.
        size: Pieces of the vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    used = [token for token in specials if token in template.split()]
    if used:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template,
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in used],
        )
    return tokenizer


Config = Callable[[int, int], PretrainedConfig]
"""Makes a config for a vocabulary's size and the padding token's id."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, and its tokens for padding and for the end of a text."""

    make: Callable[[], Tokenizer]
    padding: str
    last: str


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
PROMPTS = {"query": "Look for this: ", "document": "text "}
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


def _config(kind: type[PretrainedConfig], **fields: Any) -> Config:
    return lambda vocabulary, padding: kind(vocab_size=vocabulary, pad_token_id=padding, **fields)


WORDPIECE = Vocabulary(wordpiece, "[PAD]", "[SEP]")
ROBERTA = Vocabulary(
    lambda: byte_pairs(["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "<s> $A </s>"), "<pad>", "</s>"
)
DECODER = Vocabulary(lambda: byte_pairs(["<pad>", "<eos>"], "$A <eos>"), "<pad>", "<eos>")

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
}


def build(
    folder: Path,
    family: Family,
    *more: torch.nn.Module,
    pooling: Any = None,
    pools_prompt: bool = True,
    longest: int | None = LONGEST,
    added: Sequence[str] = (),
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

    Returns:
        The model's folder.
    """
    vocabulary = family.vocabulary
    tokenizer = vocabulary.make()
    torch.manual_seed(0)
    config = family.config(tokenizer.get_vocab_size(), tokenizer.token_to_id(vocabulary.padding))
    plain = folder / "plain"
    AutoModel.from_config(config).eval().save_pretrained(plain)
    tokenizer.add_tokens(list(added))
    limit = {} if longest is None else {"model_max_length": longest}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=vocabulary.padding,
        eos_token=vocabulary.last,
        padding_side=family.padding_side,
        **limit,
    ).save_pretrained(plain)
    pool = Pooling(config.hidden_size, pooling or family.pooling, include_prompt=pools_prompt)
    SentenceTransformer(
        modules=[Transformer(str(plain)), pool, *more],
        prompts=PROMPTS,
        default_prompt_name="document",
        device="cpu",
    ).save(str(folder / "model"))
    return folder / "model"
