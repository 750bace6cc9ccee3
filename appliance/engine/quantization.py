# SPDX-License-Identifier: Apache-2.0
"""Weights in eight or four bits, by bitsandbytes."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

__all__ = ["BITS", "dequantized", "quantization_config"]

BITS = {"none": None, "int8": 8, "nf4": 4, "fp4": 4}
"""Bits of a weight, by the setting's value; of the dtype where there is nothing."""


def quantization_config(
    quantization: str, dtype: torch.dtype, kept: Sequence[str] = ()
) -> BitsAndBytesConfig | None:
    """What transformers needs to know to quantise a model while it loads it.

    Args:
        quantization: ``none``, ``int8``, ``nf4`` or ``fp4``.
        dtype: Number format to compute in; weights are brought back to it for each batch.
        kept: Names of parts that stay as they are.
    """
    if quantization == "none":
        return None
    _bitsandbytes()
    # transformers takes patterns, and the ends of names too, which a part of another may have.
    skipped = [f"^{re.escape(name)}" for name in kept] or None
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skipped,
    )


def dequantized(module: nn.Module) -> nn.Linear | None:
    """A plain copy of a quantised linear layer; ``None`` for any other module."""
    if "bitsandbytes" not in type(module).__module__ or not isinstance(module, nn.Linear):
        return None
    library = _bitsandbytes()
    layer: Any = module
    if hasattr(layer.weight, "quant_state"):
        # Its own dequantise does not know the layout that it gives weights on CPUs with bfloat16;
        # its multiplication does, and by the identity that gives the weights.
        dtype, device = layer.weight.quant_state.dtype, layer.weight.device
        identity = torch.eye(layer.in_features, dtype=dtype, device=device)
        state = layer.weight.quant_state
        weight = library.matmul_4bit(identity, layer.weight, quant_state=state).T.contiguous()
    else:
        scale = layer.state.SCB if layer.state.SCB is not None else layer.weight.SCB
        weight = library.functional.int8_vectorwise_dequant(layer.weight.data, scale)
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
    return plain


@lru_cache
def _bitsandbytes() -> Any:
    # Not at the top: most models do without, and it takes a while to read.
    import bitsandbytes

    # It tells of every layer that it casts the rows, for each batch of another format.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    return bitsandbytes
