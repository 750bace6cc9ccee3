# SPDX-License-Identifier: Apache-2.0
"""From settings to a model in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForTextEncoding,
    PretrainedConfig,
)
from transformers.utils import logging as transformers_logging

from appliance.engine.fidelity import tell_fidelity
from appliance.engine.heads import load_chain
from appliance.engine.model import TorchBackend
from appliance.engine.modules import SpladeSpec
from appliance.engine.placement import (
    Placement,
    choose_dtype,
    choose_placements,
    count_parameters,
)
from appliance.engine.quantization import BITS, quantization_config
from appliance.engine.registry import ModelSpec, read_model_spec
from appliance.engine.remote_code import told
from appliance.engine.sources import locate_model
from appliance.engine.static import load_table
from appliance.engine.tokenizer import NO_LIMIT, ModelTokenizer
from appliance.engine.transformer import longest_by_positions
from appliance.engine.weights import check_weights
from appliance.errors import ModelUnavailable
from appliance.settings import ModelSettings, Settings

__all__ = ["load_model"]

# What they have to say of a model's files comes back as a report, and is told as our own fault.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()

UNBOUNDED_TOKENS = 8192
"""Longest input of a model where neither files nor settings state one."""


def load_model(settings: Settings, model: ModelSettings) -> list[TorchBackend]:
    """Load a model from wherever it is.

    Args:
        settings: The instance: hub token, cache, and the folder for what fits nowhere else.
        model: Which model, and how.

    Returns:
        Its copies, each on a device of its own.

    Raises:
        ModelUnavailable: With the reason, in words for the operator.
    """
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    folder = locate_model(
        model.model,
        revision=model.revision,
        token=token,
        cache=settings.hub_cache,
        pickles=model.pickle_weights,
    )
    spec = read_model_spec(folder, model)
    tokenizer, stated = _load_tokenizer(spec, model)

    def build(placement: Placement, model: ModelSettings) -> TorchBackend:
        loaded = _load_transformer(spec, model, placement, settings.swap_dir)
        transformer, chain = load_chain(spec.chain, loaded, pickles=model.pickle_weights)
        return TorchBackend(
            spec,
            transformer,
            chain,
            tokenizer,
            _max_input_tokens(transformer, spec, stated, model),
            compiled=model.compile,
        )

    parameters = count_parameters(spec.chain.transformer)
    placements = choose_placements(model, int(parameters * _bytes_of_a_parameter(model)))
    backends = [build(placement, model) for placement in placements]
    if model.quantization != "none":
        exact = model.model_copy(update={"quantization": "none", "dtype": "float32"})
        on_cpu = Placement({"": torch.device("cpu")}, torch.device("cpu"))
        tell_fidelity(model, backends[0], parameters, lambda: build(on_cpu, exact))
    return backends


def _load_tokenizer(spec: ModelSpec, model: ModelSettings) -> tuple[ModelTokenizer, int]:
    folder = spec.chain.transformer
    if spec.chain.is_static:
        return ModelTokenizer.load_bare(folder)
    return ModelTokenizer.load(
        folder, lower_case=spec.lower_case, trust_remote_code=model.trust_remote_code
    )


def _bytes_of_a_parameter(model: ModelSettings) -> float:
    bits = BITS[model.quantization]
    if bits is not None:
        return bits / 8
    likely = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return choose_dtype(model.dtype, "none", likely).itemsize


def _max_input_tokens(
    transformer: nn.Module, spec: ModelSpec, tokenizer_limit: int, model: ModelSettings
) -> int:
    """The limit that sentence-transformers has, or a lower one if it is set."""
    limit = spec.max_seq_length or tokenizer_limit
    positions = getattr(transformer.config, "max_position_embeddings", None) or -1
    if spec.max_seq_length is None and positions > 0:
        limit = min(limit, positions)
    if limit > NO_LIMIT:
        limit = model.max_input_tokens or UNBOUNDED_TOKENS
    # Files may state more than the model has positions for; reading so far would be a crash.
    return min(limit, longest_by_positions(transformer) or limit, model.max_input_tokens or limit)


def _load_transformer(
    spec: ModelSpec, model: ModelSettings, placement: Placement, swap_dir: Path | None
) -> nn.Module:
    folder = spec.chain.transformer
    dtype = choose_dtype(model.dtype, model.quantization, placement.device)
    if spec.chain.is_static:
        if model.quantization != "none":
            raise ModelUnavailable("quantization is set, but a StaticEmbedding has no layers")
        return load_table(folder, placement.device, dtype, pickles=model.pickle_weights)
    check_weights(folder, pickles=model.pickle_weights)
    config = _read_config(spec, model)
    architecture = _architecture(config, spec)
    try:
        transformer, report = architecture.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            quantization_config=quantization_config(model.quantization, dtype),
            device_map=placement.device_map,  # by accelerate, without a copy on the way
            max_memory=placement.max_memory,
            offload_folder=swap_dir,
            # Unset: safetensors where there are any.
            use_safetensors=None if model.pickle_weights else True,
            local_files_only=True,
            trust_remote_code=model.trust_remote_code,
            output_loading_info=True,
        )
    except Exception as error:  # broken files surface as any kind of error
        raise ModelUnavailable(f"it cannot be loaded: {told(error)}") from error
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise ModelUnavailable(f"its weights lack {missing[0]} and {len(missing) - 1} more")
    if hasattr(transformer, "pooler"):
        transformer.pooler = None  # made for another task; nobody reads its output here
    transformer.config.use_cache = False
    frozen: nn.Module = transformer.eval().requires_grad_(False)
    return frozen


def _read_config(spec: ModelSpec, model: ModelSettings) -> PretrainedConfig:
    try:
        arguments = {
            **spec.config_overrides,
            "local_files_only": True,
            "trust_remote_code": model.trust_remote_code,
        }
        config: PretrainedConfig = AutoConfig.from_pretrained(spec.chain.transformer, **arguments)
    except Exception as error:  # broken files surface as any kind of error
        raise ModelUnavailable(f"its config.json cannot be read: {told(error)}") from error
    return config


def _architecture(config: PretrainedConfig, spec: ModelSpec) -> Any:
    if isinstance(spec.chain.pooling, SpladeSpec):
        names = config.architectures or ["ForMaskedLM"]  # if unsaid, its weights will tell
        if not any("ForMaskedLM" in name for name in names):
            raise ModelUnavailable(
                f"SPLADE needs a ForMaskedLM model, but config.json says architectures {names}"
            )
        return AutoModelForMaskedLM
    # For models of two halves, such as T5, the half that reads.
    encoders = AutoModelForTextEncoding._model_mapping
    return AutoModelForTextEncoding if type(config) in encoders else AutoModel
