# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from transformers import PretrainedConfig


class OwnConfig(PretrainedConfig):
    model_type = "made_by_its_authors"

    vocab_size: int = 100
    hidden_size: int = 32
    pad_token_id: int | None = 0
