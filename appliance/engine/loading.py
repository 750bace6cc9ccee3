# SPDX-License-Identifier: Apache-2.0
"""From settings to a model in memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.utils import logging as transformers_logging

from appliance.engine.architectures import choose_architecture, read_config
from appliance.engine.backend import DeviceOutOfMemory, Room
from appliance.engine.capacity import device_capacities
from appliance.engine.classifier import names_of_head
from appliance.engine.fidelity import tell_fidelity
from appliance.engine.heads import load_chain
from appliance.engine.hub import commit_of
from appliance.engine.measuring import weights_of_config
from appliance.engine.model import TorchBackend
from appliance.engine.modules import ClassifierSpec
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
from appliance.engine.swap_folder import SwapFolder
from appliance.engine.tokenizer import NO_LIMIT, ModelTokenizer
from appliance.engine.transformer import longest_by_positions
from appliance.engine.weights import check_weights
from appliance.errors import ModelUnavailable
from appliance.model_sources import is_hub_name
from appliance.settings import ModelSettings, Settings

__all__ = ["PreparedModel", "load_model", "prepare_model"]

# What they have to say of a model's files comes back as a report, and is told as our own fault.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()

UNBOUNDED_TOKENS = 8192
"""Longest input of a model where neither files nor settings state one."""


class PreparedModel:
    """A model whose files are at hand, and whose weights are not read yet.

    Args:
        settings: The instance: the folder for what fits nowhere else.
        model: How to load it.
        spec: What its files say.
        rooms: The devices that there are.

    Raises:
        ModelUnavailable: With the reason, in words for the operator.
    """

    def __init__(
        self, settings: Settings, model: ModelSettings, spec: ModelSpec, rooms: Mapping[str, Room]
    ) -> None:
        self._swap_folder = settings.swap_folder
        self._model = model
        self._spec = spec
        self._tokenizer, self._stated_limit = _load_tokenizer(spec, model)
        if isinstance(spec.chain.pooling, ClassifierSpec):
            _ = self._tokenizer.pair_template  # refused now, not at a request
        self._placements = choose_placements(model, _weight_bytes(spec, model), rooms)

    @property
    def devices(self) -> list[str]:
        """The device that each copy computes on, or the first of several."""
        return [str(placement.device) for placement in self._placements]

    @property
    def sizes(self) -> list[Mapping[str, int]]:
        """Bytes that the weights of each copy will take of each device, as far as is known."""
        return [placement.sizes for placement in self._placements]

    def load(self, number: int) -> TorchBackend:
        """Load one copy.

        Raises:
            ModelUnavailable: With the reason, in words for the operator.
            DeviceOutOfMemory: There is no room for it on its device.
        """
        backend = self._build(self._placements[number], self._model)
        # Of a score there is no cosine.
        has_cosine = not isinstance(self._spec.chain.pooling, ClassifierSpec)
        if self._model.quantization != "none" and number == 0 and has_cosine:
            exact = self._model.model_copy(update={"quantization": "none", "dtype": "float32"})
            on_cpu = Placement({"": torch.device("cpu")}, torch.device("cpu"), {})
            parameters = count_parameters(self._spec.chain.transformer)
            tell_fidelity(self._model, backend, parameters, lambda: self._build(on_cpu, exact))
        return backend

    def _build(self, placement: Placement, model: ModelSettings) -> TorchBackend:
        spill = None
        if isinstance(placement.device_map, str):  # layers may have to lie on disk
            with suppress(OSError):  # where none has to, none is missed
                spill = SwapFolder(self._swap_folder)
        try:
            loaded = _load_transformer(self._spec, model, placement, spill.path if spill else None)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise DeviceOutOfMemory(str(error)) from error
        transformer, chain = load_chain(
            self._spec.chain,
            loaded,
            pickles=model.pickle_weights,
            left_out=self._tokenizer.wordless,
        )
        return TorchBackend(
            self._spec,
            transformer,
            chain,
            self._tokenizer,
            _max_input_tokens(transformer, self._spec, self._stated_limit, model),
            compiled=model.compile,
            spill=spill,
        )


def prepare_model(
    settings: Settings, model: ModelSettings, rooms: Mapping[str, Room]
) -> PreparedModel:
    """Find a model, wherever it is, and measure it.

    Args:
        settings: The instance: hub token, cache, and the folder for what fits nowhere else.
        model: Which model, and how.
        rooms: The devices that there are.

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
    if is_hub_name(model.model):
        spec = replace(spec, revision=commit_of(folder))
    return PreparedModel(settings, model, spec, rooms)


def load_model(settings: Settings, model: ModelSettings) -> list[TorchBackend]:
    """Load a model with all memory for itself.

    Returns:
        Its copies, each on a device of its own.

    Raises:
        ModelUnavailable: With the reason, in words for the operator.
    """
    capacities = device_capacities(settings.max_cuda_memory_gib)
    rooms = {name: Room(capacity) for name, capacity in capacities.items()}
    prepared = prepare_model(settings, model, rooms)
    return [prepared.load(number) for number in range(len(prepared.devices))]


def _weight_bytes(spec: ModelSpec, model: ModelSettings) -> int:
    """Bytes of the weights on the device, measured on a model without any where that works."""
    likely = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = choose_dtype(model.dtype, model.quantization, likely)
    if not spec.chain.is_static:
        config = read_config(spec, trust_remote_code=model.trust_remote_code)
        size = weights_of_config(
            choose_architecture(config, spec),
            config,
            dtype,
            model.quantization,
            trust_remote_code=model.trust_remote_code,
        )
        if size is not None:
            return size
    bits = BITS[model.quantization] or 8 * dtype.itemsize
    return count_parameters(spec.chain.transformer) * bits // 8


def _load_tokenizer(spec: ModelSpec, model: ModelSettings) -> tuple[ModelTokenizer, int]:
    folder = spec.chain.transformer
    if spec.chain.is_static:
        return ModelTokenizer.load_bare(folder)
    return ModelTokenizer.load(
        folder, lower_case=spec.lower_case, trust_remote_code=model.trust_remote_code
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
        limit = model.max_input_tokens or UNBOUNDED_TOKENS
    # Files may state more than the model has positions for; reading so far would be a crash.
    return min(limit, longest_by_positions(transformer) or limit, model.max_input_tokens or limit)


def _load_transformer(
    spec: ModelSpec, model: ModelSettings, placement: Placement, spill: Path | None
) -> nn.Module:
    folder = spec.chain.transformer
    dtype = choose_dtype(model.dtype, model.quantization, placement.device)
    if spec.chain.is_static:
        if model.quantization != "none":
            raise ModelUnavailable("quantization is set, but a StaticEmbedding has no layers")
        return load_table(folder, placement.device, dtype, pickles=model.pickle_weights)
    check_weights(folder, pickles=model.pickle_weights)
    config = read_config(spec, trust_remote_code=model.trust_remote_code)
    architecture = choose_architecture(config, spec)
    kept = _head_of(spec, model, architecture, config)
    try:
        transformer, report = architecture.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            quantization_config=quantization_config(model.quantization, dtype, kept),
            device_map=placement.device_map,  # by accelerate, without a copy on the way
            max_memory=placement.max_memory,
            offload_folder=spill,
            # Unset: safetensors where there are any.
            use_safetensors=None if model.pickle_weights else True,
            local_files_only=True,
            trust_remote_code=model.trust_remote_code,
            output_loading_info=True,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # broken files surface as any kind of error
        raise ModelUnavailable(f"it cannot be loaded: {told(error)}") from error
    # Made for another task; nobody reads its output, but for some classifiers' heads.
    drops_pooler = not isinstance(spec.chain.pooling, ClassifierSpec)
    missing = sorted(
        key for key in report["missing_keys"] if not (drops_pooler and "pooler" in key)
    )
    if missing:
        raise ModelUnavailable(f"its weights lack {missing[0]} and {len(missing) - 1} more")
    if drops_pooler and hasattr(transformer, "pooler"):
        transformer.pooler = None
    transformer.config.use_cache = False
    frozen: nn.Module = transformer.eval().requires_grad_(False)
    return frozen


def _head_of(
    spec: ModelSpec, model: ModelSettings, architecture: Any, config: PretrainedConfig
) -> list[str]:
    """Parts that are too small to be worth their loss in a few bits."""
    if model.quantization == "none" or not isinstance(spec.chain.pooling, ClassifierSpec):
        return []
    return names_of_head(architecture, config, trust_remote_code=model.trust_remote_code)
