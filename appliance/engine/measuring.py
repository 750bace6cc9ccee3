# SPDX-License-Identifier: Apache-2.0
"""How large a model is, before it is loaded."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from appliance.engine.quantization import BITS

__all__ = ["weights_of_config"]

logger = logging.getLogger(__name__)


def weights_of_config(
    architecture: Any,
    config: PretrainedConfig,
    dtype: torch.dtype,
    quantization: str,
    *,
    trust_remote_code: bool = False,
) -> int | None:
    """Bytes of a transformer's weights, by building it without any.

    Args:
        architecture: One of transformers' auto classes.
        config: The model's own.
        dtype: Number format of weights that are not quantised.
        quantization: As set.
        trust_remote_code: Whether code that comes with the model may be run.

    Returns:
        ``None`` if it cannot be built so.
    """
    try:
        with torch.device("meta"):
            module = architecture.from_config(
                config, dtype=dtype, trust_remote_code=trust_remote_code
            )
    except Exception as error:  # a model's code may raise anything
        logger.debug("a model cannot be measured by its config: %s", error)
        return None
    bits = BITS[quantization]
    size: int = sum(t.nbytes for t in (*module.parameters(), *module.buffers()))
    if bits is not None:
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                size += layer.weight.numel() * bits // 8 - layer.weight.nbytes
    return size
