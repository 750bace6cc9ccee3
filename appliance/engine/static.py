# SPDX-License-Identifier: Apache-2.0
"""A table of token vectors in a transformer's place: sentence-transformers' ``StaticEmbedding``.

A text's vector is the mean of its tokens' rows. Tables of model2vec, which share rows between
tokens and weight them, are read as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from appliance.engine.weights import read_weights
from appliance.errors import ModelUnavailable

__all__ = ["load_table"]


class TokenTable(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Looks tokens up; it has transformers' manners, so that it is run like any other model.

    Args:
        rows: Shape ``[vocabulary, hidden]``.
    """

    config_class = PretrainedConfig
    _supports_attention_backend = True  # it has no attention that could mix texts

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__(PretrainedConfig())
        self.embeddings = nn.Embedding(len(rows), rows.shape[1], _weight=rows)

    def get_input_embeddings(self) -> nn.Embedding:
        """The table."""
        return self.embeddings

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor | None = None,  # noqa: ARG002  # named by all that run packed
        **_: Any,
    ) -> BaseModelOutput:
        """Shape ``[texts, tokens]`` to ``[texts, tokens, hidden]``; positions do not matter."""
        return BaseModelOutput(last_hidden_state=self.embeddings(input_ids))


def load_table(
    folder: Path, device: torch.device, dtype: torch.dtype, *, pickles: bool = False
) -> nn.Module:
    """Read a table's weights.

    Args:
        folder: The module's folder.
        device: Where the table goes.
        dtype: Its number format.
        pickles: Whether weights in PyTorch's older format may be read.

    Raises:
        ModelUnavailable: The weights are missing or broken.
    """
    weights = read_weights(folder, pickles=pickles)
    try:
        rows = _rows(weights)
    except (KeyError, IndexError) as error:
        raise ModelUnavailable(f"its table of token vectors cannot be read: {error}") from error
    table: nn.Module = TokenTable(rows.to(device, dtype))
    return table.eval().requires_grad_(False)


def _rows(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    if "embedding.weight" in weights:
        return weights["embedding.weight"]
    rows = weights["embeddings"]
    if "mapping" in weights:
        rows = rows[weights["mapping"].long()]
    if "weights" in weights:
        rows = rows * weights["weights"].unsqueeze(1)
    return rows
