# SPDX-License-Identifier: Apache-2.0
"""Tokenizers made on the spot, of the kinds that models have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
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


def byte_pairs(
    specials: Sequence[str] = (), template: str = "$A", size: int = 350, pair: str | None = None
) -> Tokenizer:
    """A tokenizer of GPT's kind: any text without an unknown token.

    Args:
        specials: Special tokens, which get the first ids.
        template: Where the special tokens stand around a text.
        size: Pieces of the vocabulary.
        pair: Where they stand around two texts; nowhere by default.
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
            pair=pair,
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in used],
        )
    return tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, and its tokens for padding and for the end of a text."""

    make: Callable[[], Tokenizer]
    padding: str
    last: str


WORDPIECE = Vocabulary(wordpiece, "[PAD]", "[SEP]")
ROBERTA = Vocabulary(
    lambda: byte_pairs(
        ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        "<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
    ),
    "<pad>",
    "</s>",
)
DECODER = Vocabulary(lambda: byte_pairs(["<pad>", "<eos>"], "$A <eos>"), "<pad>", "<eos>")
