# SPDX-License-Identifier: Apache-2.0
"""SPLADE: one value for each word of the vocabulary.

A masked language model's logits say for each token which words could stand there. A text's vector
is ``log1p(relu(logits))``, of which the largest or the sum over its tokens is taken
(https://arxiv.org/abs/2109.10086; sentence-transformers' ``SpladePooling``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from appliance.engine.jobs import Batch
from appliance.engine.modules import SpladeSpec
from appliance.errors import ModelUnavailable

__all__ = ["SpladePooling", "split_masked_language_model"]

LOGITS_BYTES = {"cpu": 64 << 20}
"""Logits held at once, by the kind of device. Of a whole batch they would take gigabytes. On a CPU,
whose workers hold as much each, a few hundred tokens keep its matrix kernels busy."""

LOGITS_BYTES_ELSEWHERE = 512 << 20
"""An accelerator needs thousands of tokens to be busy, and has the memory."""


class SpladePooling(nn.Module):
    """From token vectors to the values of the vocabulary's words.

    Args:
        head: What a masked language model has behind its transformer; see
            :func:`split_masked_language_model`.
        spec: What is taken over a text's tokens, and how.
        words: Words of the vocabulary: logits of a token.
    """

    def __init__(self, head: nn.Module, spec: SpladeSpec, words: int) -> None:
        super().__init__()
        self.head = head
        self._spec = spec
        self._words = words

    def forward(self, hidden: torch.Tensor, cu_seqlens: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Pool each text.

        Args:
            hidden: Shape ``[tokens, hidden]``.
            cu_seqlens: int64, shape ``[texts + 1]``, on the same device: where each text starts.
            batch: The same texts.

        Returns:
            float32, shape ``[texts, words]``.
        """
        rows = hidden.new_zeros((len(batch), self._words), dtype=torch.float32)
        most = LOGITS_BYTES.get(hidden.device.type, LOGITS_BYTES_ELSEWHERE)
        step = max(1, most // (self._words * hidden.element_size()))
        for start in range(0, len(hidden), step):
            end = min(start + step, len(hidden))
            logits = self.head(inputs_embeds=hidden[start:end].unsqueeze(0)).logits[0]
            # The texts that have tokens among these; the host knows without asking the device.
            first = int(batch.cu_seqlens.searchsorted(start, "right")) - 1
            last = int(batch.cu_seqlens.searchsorted(end, "left"))
            lengths = cu_seqlens[first : last + 1].clamp(start, end).diff()
            self._add(rows[first:last], logits, lengths)
        # Rows began at 0, which is relu. The logarithm keeps the order, so that of the largest
        # logit is the largest.
        return self._scaled(rows) if self._spec.strategy == "max" else rows

    def _add(self, rows: torch.Tensor, logits: torch.Tensor, lengths: torch.Tensor) -> None:
        if self._spec.strategy == "max":
            largest = torch.segment_reduce(logits, "max", lengths=lengths, unsafe=True)
            torch.maximum(rows, largest.float(), out=rows)
        else:
            values = self._scaled(logits.float().relu_())
            rows += torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)

    def _scaled(self, values: torch.Tensor) -> torch.Tensor:
        values = values.log1p_()
        return values.log1p_() if self._spec.twice else values


_TOLERANCE = 1e-2
"""Rounding in half precision."""


class _Given(nn.Module):
    """Stands in a model where its transformer was, and gives back the vectors it is given."""

    def forward(self, *_: object, inputs_embeds: torch.Tensor, **__: object) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=inputs_embeds)


def split_masked_language_model(model: Any) -> tuple[nn.Module, nn.Module, int]:
    """Take a masked language model apart.

    Args:
        model: One of transformers' ``ForMaskedLM`` classes, in evaluation mode.

    Returns:
        Its transformer; the rest, which is given token vectors as ``inputs_embeds``; and the
        number of logits of a token.

    Raises:
        ModelUnavailable: It has no such parts, or they give other logits than the whole.
    """
    places = getattr(model, "hf_device_map", {})
    if len(set(places.values())) > 1:
        raise ModelUnavailable("a SPLADE model has to fit on one device")
    ids = torch.arange(1, 4, device=model.device).unsqueeze(0)
    try:
        with torch.no_grad():
            whole = model(input_ids=ids).logits
            transformer: nn.Module = getattr(model, model.base_model_prefix)
            hidden = transformer(input_ids=ids).last_hidden_state
            setattr(model, model.base_model_prefix, _Given())
            parts = model(inputs_embeds=hidden).logits
    except Exception as error:  # a model's code may raise anything when run in a new way
        raise ModelUnavailable(f"{_unsplittable(model)}: {error}") from error
    if not torch.allclose(whole, parts, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise ModelUnavailable(f"{_unsplittable(model)}: together they give other logits")
    return transformer, model, int(whole.shape[-1])


def _unsplittable(model: nn.Module) -> str:
    return f"its {type(model).__name__} cannot be taken apart into transformer and head"
