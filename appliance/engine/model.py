# SPDX-License-Identifier: Apache-2.0
"""A model on a device: loading it, proving it, running it.

A forward pass is packed where that is proven. At load, a few texts of random ids are embedded one
by one through transformers' own attention; then the same texts go through packed, all in one
batch. Only if both agree does the model run packed. Otherwise texts are padded, in groups of
similar length. The same proof decides on prepacked linear layers.
"""

from __future__ import annotations

import inspect
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding
from transformers.utils import logging as transformers_logging

from appliance.engine.attention import GROUPS, PACKED, equal_length_groups
from appliance.engine.batcher import length_buckets
from appliance.engine.pooling import load_dense, pool_segments
from appliance.engine.prepack import can_prepack, prepack_linears
from appliance.engine.registry import ModelSpec, read_model_spec
from appliance.engine.sources import locate_model
from appliance.engine.tokenizer import ModelTokenizer
from appliance.engine.types import Batch, FloatMatrix
from appliance.errors import ModelUnavailable
from appliance.settings import ModelSettings, Settings

__all__ = ["TorchBackend", "load_model"]

logger = logging.getLogger(__name__)
transformers_logging.disable_progress_bar()

UNBOUNDED_TOKENS = 8192
"""Longest input of a model whose files state none."""

_PROBE_LENGTHS = (3, 17, 5, 17, 40)
# Largest difference between the ways, as a share of the largest value: rounding, no more.
_PROBE_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


class TorchBackend:
    """One loaded model.

    Args:
        spec: Its chain.
        transformer: The transformer, frozen, on its device.
        dense: Modules behind the pooling, in float32 on the same device.
        tokenizer: Its tokenizer.
        max_input_tokens: Longest text that it reads.
        batch_tokens: Tokens of a usual batch.
    """

    def __init__(
        self,
        spec: ModelSpec,
        transformer: nn.Module,
        dense: nn.Module,
        tokenizer: ModelTokenizer,
        max_input_tokens: int,
        batch_tokens: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_input_tokens = max_input_tokens
        self.packed = False
        self.prepacked = False
        self._spec = spec
        self._transformer = transformer
        self._dense = dense
        self._batch_tokens = batch_tokens
        parameter = next(transformer.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self._takes_positions = "position_ids" in inspect.signature(transformer.forward).parameters
        self._position_offset = 0
        config: Any = transformer.config
        self._padding_id = int(getattr(config, "pad_token_id", None) or 0)
        self.dimension = (
            spec.dense[-1].out_features
            if spec.dense
            else int(config.hidden_size) * len(spec.pooling)
        )

    def forward(self, batch: Batch) -> FloatMatrix:
        """Embed a batch.

        Returns:
            float32, shape ``[texts, dimension]``: the chain's own output.
        """
        with torch.inference_mode():
            hidden = self._hidden(batch)
            cu_seqlens = torch.from_numpy(batch.cu_seqlens.astype(np.int64)).to(self.device)
            vectors = self._dense(pool_segments(hidden, cu_seqlens, self._spec.pooling))
            if self._spec.normalizes:
                vectors = nn.functional.normalize(vectors, dim=1)
            result: FloatMatrix = vectors.cpu().numpy()
            return result

    def _hidden(self, batch: Batch) -> torch.Tensor:
        """Token vectors, shape ``[tokens, hidden]``, texts end to end."""
        return self._run_packed(batch) if self.packed else self._run_padded(batch)

    def _run_packed(self, batch: Batch) -> torch.Tensor:
        starts = np.repeat(batch.cu_seqlens[:-1], batch.lengths)
        positions = np.arange(len(batch.input_ids), dtype=np.int64) - starts
        output = self._transformer(
            input_ids=torch.from_numpy(batch.input_ids).to(self.device).unsqueeze(0),
            position_ids=torch.from_numpy(positions + self._position_offset)
            .to(self.device)
            .unsqueeze(0),
            attention_mask=None,
            **{GROUPS: equal_length_groups(batch.lengths)},
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden[0]

    def _run_padded(self, batch: Batch) -> torch.Tensor:
        lengths = batch.lengths
        pieces: list[torch.Tensor] = [torch.empty(0)] * len(lengths)
        for group in length_buckets(lengths.tolist(), self._batch_tokens):
            ids = np.full((len(group), lengths[group[0]]), self._padding_id, dtype=np.int64)
            mask = np.zeros_like(ids)
            for row, text in enumerate(group):
                start, end = batch.cu_seqlens[text], batch.cu_seqlens[text + 1]
                ids[row, : end - start] = batch.input_ids[start:end]
                mask[row, : end - start] = 1
            output = self._transformer(
                input_ids=torch.from_numpy(ids).to(self.device),
                attention_mask=torch.from_numpy(mask).to(self.device),
            )
            for row, text in enumerate(group):
                pieces[text] = output.last_hidden_state[row, : lengths[text]]
        return torch.cat(pieces)

    def warm_up(self) -> None:
        """Settle on the fastest way and run a first batch through the whole chain."""
        self.prove()
        self.forward(self._probe_batch())
        logger.info(
            "%s: %s on %s, %s, %s linear layers",
            type(self._transformer).__name__,
            str(self.dtype).removeprefix("torch."),
            self.device,
            "packed" if self.packed else "padded",
            "prepacked" if self.prepacked else "plain",
        )

    def prove(self, *, packed: bool = True, prepacked: bool = True) -> None:
        """Find the fastest way whose results are those of the plain one, and take it.

        Args:
            packed: Try texts end to end.
            prepacked: Try prepacked linear layers, on a CPU.
        """
        batch = self._probe_batch()
        with torch.inference_mode():
            plain = [
                self._run_padded(Batch.pack([batch.input_ids[start:end]]))
                for start, end in zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False)
            ]
            expected = torch.cat(plain).float()
            if packed:
                self._try_packed(batch, expected)
            if prepacked and self.device.type == "cpu" and can_prepack():
                self._try_prepacked(batch, expected)

    def _probe_batch(self) -> Batch:
        generator = np.random.default_rng(0)
        longest = max(self.max_input_tokens, 1)
        lengths = sorted(min(length, longest) for length in _PROBE_LENGTHS)
        window = getattr(self._transformer.config, "sliding_window", None)
        if isinstance(window, int) and window < 4096:
            lengths.append(min(window + window // 2, longest))
        highest = self.tokenizer.vocabulary_size
        return Batch.pack([generator.integers(0, highest, length) for length in lengths])

    def _try_packed(self, batch: Batch, expected: torch.Tensor) -> None:
        transformer: Any = self._transformer
        if not (self._takes_positions and transformer.is_backend_compatible()):
            return
        plain = transformer.config._attn_implementation
        transformer.set_attn_implementation(PACKED)
        self.packed = True
        # Learned positions of the RoBERTa family start behind the padding id.
        for offset in dict.fromkeys((0, self._padding_id + 1)):
            self._position_offset = offset
            if self._agrees(batch, expected):
                return
        self.packed = False
        transformer.set_attn_implementation(plain)

    def _try_prepacked(self, batch: Batch, expected: torch.Tensor) -> None:
        replaced: list[tuple[nn.Module, str, nn.Module]] = []
        with suppress(RuntimeError):  # a dtype that the operators do not take
            replaced = prepack_linears(self._transformer, self._batch_tokens)
            self.prepacked = bool(replaced) and self._agrees(batch, expected)
        if not self.prepacked:
            for parent, name, layer in replaced:
                setattr(parent, name, layer)

    def _agrees(self, batch: Batch, expected: torch.Tensor) -> bool:
        try:
            found = self._hidden(batch).float()
        except Exception as error:  # a model's code may raise anything when run in a new way
            logger.debug("a faster way failed its proof: %s", error)
            return False
        largest = expected.abs().max().clamp_min(1e-6)
        return bool((found - expected).abs().max() / largest < _PROBE_TOLERANCE[self.dtype])


def load_model(settings: Settings, model: ModelSettings, batch_tokens: int) -> TorchBackend:
    """Load a model from wherever it is.

    Args:
        settings: The instance: hub token and cache.
        model: Which model, and how.
        batch_tokens: Tokens of a usual batch on its device.

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
        _max_input_tokens(transformer.config, spec, stated, model),
        batch_tokens,
    )


def _max_input_tokens(
    config: Any, spec: ModelSpec, tokenizer_limit: int, model: ModelSettings
) -> int:
    """The limit that sentence-transformers has, or a lower one if it is set."""
    positions = getattr(config, "max_position_embeddings", None) or -1
    limit = spec.max_seq_length or tokenizer_limit
    if spec.max_seq_length is None and positions > 0:
        limit = min(limit, positions)
    if limit > 10**9:  # transformers' way to say that the tokenizer's files state none
        limit = UNBOUNDED_TOKENS
    return min(limit, model.max_input_tokens or limit)


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
        architecture = AutoModelForTextEncoding if config.is_encoder_decoder else AutoModel
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
