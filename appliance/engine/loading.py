# SPDX-License-Identifier: Apache-2.0
"""From settings to a model in memory."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding
from transformers.utils import logging as transformers_logging

from appliance.engine.model import TorchBackend, longest_by_positions
from appliance.engine.pooling import load_dense
from appliance.engine.registry import ModelSpec, read_model_spec
from appliance.engine.sources import locate_model
from appliance.engine.tokenizer import ModelTokenizer
from appliance.errors import ModelUnavailable
from appliance.settings import ModelSettings, Settings

__all__ = ["load_model"]

# What they have to say of a model's files comes back as a report, and is told as our own fault.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()

NO_LIMIT = 10**9
"""transformers states a larger number where a tokenizer's files state none."""

UNBOUNDED_TOKENS = 8192
"""Longest input of a model whose files state none."""


def load_model(settings: Settings, model: ModelSettings) -> TorchBackend:
    """Load a model from wherever it is.

    Args:
        settings: The instance: hub token and cache.
        model: Which model, and how.

    Raises:
        ModelUnavailable: With the reason, in words for the operator.
    """
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    folder = locate_model(
        model.model, revision=model.revision, token=token, cache=settings.hub_cache
    )
    spec = read_model_spec(folder, model)
    tokenizer, stated = ModelTokenizer.load(
        spec.transformer,
        lower_case=spec.lower_case,
        trust_remote_code=model.trust_remote_code,
    )
    transformer = _load_transformer(spec.transformer, model)
    dense = nn.Sequential(*(load_dense(part) for part in spec.dense))
    return TorchBackend(
        spec,
        transformer,
        dense.to(next(transformer.parameters()).device).eval().requires_grad_(False),
        tokenizer,
        _max_input_tokens(transformer, spec, stated, model),
    )


def _max_input_tokens(
    transformer: nn.Module, spec: ModelSpec, tokenizer_limit: int, model: ModelSettings
) -> int:
    """The limit that sentence-transformers has, or a lower one if it is set."""
    limit = spec.max_seq_length or tokenizer_limit
    positions = getattr(transformer.config, "max_position_embeddings", None) or -1
    if spec.max_seq_length is None and positions > 0:
        limit = min(limit, positions)
    if limit > NO_LIMIT:
        limit = UNBOUNDED_TOKENS
    # Files may state more than the model has positions for; reading so far would be a crash.
    return min(limit, longest_by_positions(transformer) or limit, model.max_input_tokens or limit)


def _load_transformer(folder: Path, model: ModelSettings) -> nn.Module:
    if not any(folder.glob("*.safetensors")):
        raise ModelUnavailable(
            "it has no safetensors weights; other formats can run code when they are read"
        )
    device = _device(model.device_map)
    try:
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=model.trust_remote_code
        )
        # For models of two halves, such as T5, the half that reads.
        encoders = AutoModelForTextEncoding._model_mapping
        architecture = AutoModelForTextEncoding if type(config) in encoders else AutoModel
        transformer, report = architecture.from_pretrained(
            folder,
            config=config,
            dtype=_dtype(model.dtype, device),
            device_map={"": device},  # by accelerate, without a copy on the way
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=model.trust_remote_code,
            output_loading_info=True,
        )
    except Exception as error:  # broken files surface as any kind of error
        raise ModelUnavailable(f"it cannot be loaded: {error}") from error
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise ModelUnavailable(f"its weights lack {missing[0]} and {len(missing) - 1} more")
    if hasattr(transformer, "pooler"):
        transformer.pooler = None  # made for another task; nobody reads its output here
    transformer.config.use_cache = False
    frozen: nn.Module = transformer.eval().requires_grad_(False)
    return frozen


def _device(device_map: str) -> torch.device:
    if device_map == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(device_map)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelUnavailable(
            f"device_map is {device_map!r}, but this machine has"
            f" {torch.cuda.device_count()} CUDA devices"
        )
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        half = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if half else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype
