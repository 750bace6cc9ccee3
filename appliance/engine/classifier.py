# SPDX-License-Identifier: Apache-2.0
"""Classifiers and cross-encoders: a few numbers for each text, or each pair of texts.

transformers' ``ForSequenceClassification`` models are a transformer and a head. The transformer
runs packed, as that of any other model. What a head reads of it differs: BERT's reads the first
token, a decoder's the last, ModernBERT's may read the mean; EuroBERT's may judge each token and
take the mean of that. It is found out by giving the head vectors of chance, and so needs no list of
architectures.
"""

from __future__ import annotations

import copy
from typing import Any, Literal, get_args

import numpy as np
import torch
from accelerate.hooks import add_hook_to_module, remove_hook_from_module
from torch import nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from appliance.engine.jobs import Batch
from appliance.engine.pooling import pool_segments
from appliance.engine.transformer import execution_device
from appliance.engine.types import TokenArray
from appliance.errors import ModelUnavailable

__all__ = ["ClassifierHead", "last_tokens", "names_of_head", "split_classifier"]

Reading = Literal["cls", "last_token", "mean", "each_token"]
"""What a head reads of a text: one vector of it, or every token's."""

_LENGTHS = (5, 3, 7)
_LEAST = 1e-6
_TOLERANCE = 1e-3
_HALF_TOLERANCE = 0.1
"""Rounding in half precision or of quantised weights; the head itself is proven in float32."""


class ClassifierHead(nn.Module):
    """From token vectors to a text's logits. Computes in float32.

    Args:
        rest: What a model has behind its transformer; see :func:`split_classifier`.
        reading: What it reads.
        labels: What its logits stand for, in order.
        padding_id: Token that is never read as a text's last, if there is one.
    """

    def __init__(
        self, rest: nn.Module, reading: Reading, labels: tuple[str, ...], padding_id: int | None
    ) -> None:
        super().__init__()
        self.labels = labels
        self.reading = reading
        self._rest = rest
        self._padding_id = padding_id

    def forward(self, hidden: torch.Tensor, cu_seqlens: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Judge each text.

        Args:
            hidden: Shape ``[tokens, hidden]``.
            cu_seqlens: int64, shape ``[texts + 1]``, on the same device: where each text starts.
            batch: The same texts.

        Returns:
            float32, shape ``[texts, labels]``.
        """
        if self.reading == "each_token":
            return pool_segments(self._logits(hidden), cu_seqlens, ("mean",))
        if self.reading == "last_token":
            last = torch.from_numpy(last_tokens(batch, self._padding_id))
            return self._logits(hidden[last.to(hidden.device)])
        return self._logits(pool_segments(hidden, cu_seqlens, (self.reading,)))

    def _logits(self, rows: torch.Tensor) -> torch.Tensor:
        """Shape ``[rows, hidden]`` to ``[rows, labels]``: each row is a text of one token."""
        logits: torch.Tensor = self._rest(inputs_embeds=rows.float().unsqueeze(1)).logits
        return logits.float()


def last_tokens(batch: Batch, padding_id: int | None) -> TokenArray:
    """Where the token lies that a decoder's head reads: a text's last that is not the padding's.

    The rule is that of transformers' ``GenericForSequenceClassification``, in which padding may be
    part of a text, as where one token stands for it and for a text's end.

    Returns:
        int64, shape ``[texts]``; a text's first token if all are the padding's.
    """
    starts = batch.cu_seqlens[:-1].astype(np.int64)
    places = np.arange(len(batch.input_ids), dtype=np.int64)
    if padding_id is not None:
        places[batch.input_ids == padding_id] = -1
    return np.maximum(np.maximum.reduceat(places, starts), starts)


class _Given(nn.Module):
    """Stands in a model where its transformer was, and gives back the vectors it is given.

    Args:
        transformer: Its pooler is taken over, if it has one: some heads read that.
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.pooler: nn.Module | None = getattr(transformer, "pooler", None)
        self.activation: nn.Module | None = getattr(transformer, "pooler_activation", None)
        if self.pooler is not None:
            transformer.pooler = None

    def forward(
        self, *_: object, inputs_embeds: torch.Tensor, **__: object
    ) -> BaseModelOutputWithPoolingAndCrossAttentions:
        pooled = None
        if self.pooler is not None and self.activation is not None:  # ALBERT's, in two parts
            pooled = self.activation(self.pooler(inputs_embeds[:, 0]))
        elif self.pooler is not None:
            pooled = self.pooler(inputs_embeds)
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=inputs_embeds, pooler_output=pooled
        )


def names_of_head(
    architecture: Any, config: PretrainedConfig, *, trust_remote_code: bool = False
) -> list[str]:
    """What the parts of a classifier's head are called, by building it without any weights.

    Args:
        architecture: transformers' auto class.
        config: The model's own.
        trust_remote_code: Whether code that comes with the model may be run.

    Raises:
        ModelUnavailable: It cannot be built so.
    """
    try:
        with torch.device("meta"):
            model = architecture.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # a model's code may raise anything
        raise ModelUnavailable(f"its head cannot be told from the rest: {error}") from error
    transformer = model.base_model_prefix
    own = [name for name, _ in model.named_children() if name != transformer]
    return [*own, f"{transformer}.pooler"]


def split_classifier(model: Any) -> tuple[nn.Module, ClassifierHead]:
    """Take a classifier apart.

    Args:
        model: One of transformers' ``ForSequenceClassification`` classes, in evaluation mode.

    Returns:
        Its transformer, without its pooler; and its head, which is in float32 whatever the
        transformer is in, so that rounding makes no ties of scores.

    Raises:
        ModelUnavailable: It has no such parts, or they give other logits than the whole.
    """
    is_exact = model.dtype == torch.float32 and not hasattr(model, "hf_quantizer")
    tolerance = _TOLERANCE if is_exact else _HALF_TOLERANCE
    device = execution_device(model)
    padding_id: int | None = getattr(model.config.get_text_config(), "pad_token_id", None)
    texts = [text.to(device) for text in _probe_texts(model, padding_id)]
    try:
        with torch.no_grad():
            whole = torch.cat([model(input_ids=text.unsqueeze(0)).logits for text in texts])
            transformer, rest = _parts(model)
            hidden = [transformer(input_ids=text.unsqueeze(0)) for text in texts]
            rows = torch.cat([output.last_hidden_state[0] for output in hidden])
            nn.Module.to(rest, rows.device)  # its own refuses where weights were quantised
            batch = Batch.pack([text.cpu().numpy() for text in texts])
            head = _head(rest, padding_id, batch, rows)
            found = head(rows, torch.from_numpy(batch.cu_seqlens).to(rows.device).long(), batch)
    except ModelUnavailable:
        raise
    except Exception as error:  # a model's code may raise anything when run in a new way
        raise ModelUnavailable(f"{_unsplittable(model)}: {error}") from error
    if not _agree(found, whole, tolerance, 1.0):
        raise ModelUnavailable(f"{_unsplittable(model)}: together they give other logits")
    return transformer, head


def _probe_texts(model: Any, padding_id: int | None) -> list[torch.Tensor]:
    """Ids of a few texts, none of them the padding's."""
    words = model.get_input_embeddings().num_embeddings
    known = torch.arange(words)
    known = known[known != padding_id] if padding_id is not None else known
    generator = torch.Generator().manual_seed(0)
    return [known[torch.randint(len(known), (length,), generator=generator)] for length in _LENGTHS]


def _parts(model: Any) -> tuple[nn.Module, nn.Module]:
    """A classifier's transformer, and the rest in float32."""
    transformer: nn.Module = getattr(model, model.base_model_prefix)
    hook = getattr(model, "_hf_hook", None)  # accelerate's, where it is spread out
    if hook is not None and not hasattr(transformer, "_hf_hook"):
        add_hook_to_module(transformer, copy.copy(hook))
    rest: Any = model
    setattr(rest, model.base_model_prefix, _Given(transformer))
    for part in list(rest.modules()):
        if (own := getattr(part, "_hf_hook", None)) is not None:
            own.pre_forward(part)  # weights that it would fetch for each batch stay
            remove_hook_from_module(part)
    # Behind it each row is a text of its own, of which no token is padding.
    rest.config = copy.deepcopy(model.config)
    config = rest.config.get_text_config()
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = 0  # or it would take but one
    return transformer, nn.Module.float(rest)  # its own refuses where weights were quantised


def _head(rest: Any, padding_id: int | None, batch: Batch, rows: torch.Tensor) -> ClassifierHead:
    """The rest of a classifier with the reading that gives what it gives for whole texts."""
    generator = torch.Generator().manual_seed(0)
    chance = torch.randn(rows.shape, generator=generator).to(rows.device)
    cu_seqlens = torch.from_numpy(batch.cu_seqlens).to(rows.device).long()
    texts = torch.split(chance, batch.lengths.tolist())
    whole = torch.cat([rest(inputs_embeds=text.unsqueeze(0)).logits for text in texts])
    names = rest.config.id2label or {}
    labels = tuple(str(names.get(place, f"LABEL_{place}")) for place in range(whole.shape[-1]))
    for reading in get_args(Reading):
        head = ClassifierHead(rest, reading, labels, padding_id)
        if _agree(head(chance, cu_seqlens, batch), whole, _TOLERANCE, _LEAST):
            return head
    raise ModelUnavailable(
        f"{_unsplittable(rest)}: what its head reads is neither a text's first token, nor its"
        " last, nor a mean"
    )


def _agree(found: torch.Tensor, expected: torch.Tensor, tolerance: float, least: float) -> bool:
    """Whether the largest difference is a small share of the largest value, or of ``least``."""
    found, expected = found.float().cpu(), expected.float().cpu()
    finite = expected.isfinite()  # in half precision they may overflow
    largest = expected[finite].abs().max() if finite.any() else torch.tensor(0.0)
    return bool(((found - expected).abs()[finite] <= tolerance * largest.clamp_min(least)).all())


def _unsplittable(model: nn.Module) -> str:
    return f"its {type(model).__name__} cannot be taken apart into transformer and head"
