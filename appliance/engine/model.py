# SPDX-License-Identifier: Apache-2.0
"""A model on a device: proving it, running it.

A forward pass is packed where that is proven. At load, a few texts of random ids are embedded one
by one through transformers' own attention; then the same texts go through packed, all in one
batch. Only if both agree does the model run packed. Otherwise texts are padded, in groups of
similar length. The same proof decides on prepacked linear layers.
"""

from __future__ import annotations

import inspect
import logging
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import nn

from appliance.engine.attention import GROUPS, PACKED, equal_length_groups
from appliance.engine.batcher import length_buckets
from appliance.engine.pooling import pool_segments
from appliance.engine.prepack import can_prepack, prepack_linears
from appliance.engine.registry import ModelSpec
from appliance.engine.tokenizer import ModelTokenizer
from appliance.engine.types import Batch, FloatMatrix, TokenArray

__all__ = ["TorchBackend", "longest_by_positions"]

logger = logging.getLogger(__name__)


def first_position(transformer: nn.Module) -> int:
    """Number of a text's first position: 0, or behind the padding's id in the RoBERTa family."""
    for module in transformer.modules():
        padding = getattr(module, "padding_idx", None)
        if isinstance(padding, int) and _learned_positions(module) is not None:
            return padding + 1
    return 0


def longest_by_positions(transformer: nn.Module) -> int | None:
    """Most tokens that a table of learned positions has room for; ``None`` if there is none."""
    tables = [table for m in transformer.modules() if (table := _learned_positions(m)) is not None]
    rows = min((table.num_embeddings for table in tables), default=None)
    return None if rows is None else rows - first_position(transformer)


def _learned_positions(module: nn.Module) -> nn.Embedding | None:
    table = getattr(module, "position_embeddings", None)
    return table if isinstance(table, nn.Embedding) else None


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
    """

    def __init__(
        self,
        spec: ModelSpec,
        transformer: nn.Module,
        dense: nn.Module,
        tokenizer: ModelTokenizer,
        max_input_tokens: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_input_tokens = max_input_tokens
        self.packed = False
        self.prepacked = False
        self.prompts = spec.prompts
        self.default_prompt_name = spec.default_prompt_name
        self.pools_prompt = spec.pools_prompt
        self._spec = spec
        self._transformer = transformer
        self._dense = dense
        parameter = next(transformer.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.device_name = str(self.device)
        self._batch_tokens = max_input_tokens
        self._takes_positions = "position_ids" in inspect.signature(transformer.forward).parameters
        self._position_offset = first_position(transformer)
        model: Any = transformer
        config, rows = model.config, model.get_input_embeddings().num_embeddings
        # Either may be the larger: rows kept for later, or words added without a row.
        self.vocabulary_size = min(tokenizer.vocabulary_size, rows)
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
            unpooled = None if batch.unpooled is None else torch.from_numpy(batch.unpooled)
            pooled = pool_segments(hidden, cu_seqlens, self._spec.pooling, unpooled)
            vectors = self._dense(pooled)
            if self._spec.normalizes:
                vectors = nn.functional.normalize(vectors, dim=1)
            result: FloatMatrix = vectors.cpu().numpy()
            return result

    def _hidden(self, batch: Batch) -> torch.Tensor:
        """Token vectors, shape ``[tokens, hidden]``, texts end to end."""
        return self._run_packed(batch) if self.packed else self._run_padded(batch)

    def _run_packed(self, batch: Batch) -> torch.Tensor:
        output = self._transformer(
            input_ids=torch.from_numpy(batch.input_ids).to(self.device).unsqueeze(0),
            position_ids=torch.from_numpy(self._positions(batch)).to(self.device).unsqueeze(0),
            attention_mask=None,
            **{GROUPS: equal_length_groups(batch.lengths)},
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden[0]

    def _positions(self, batch: Batch) -> TokenArray:
        """Position of each token in its text, int64, shape ``[tokens]``."""
        starts, lengths = batch.cu_seqlens[:-1], batch.lengths
        if not self._position_offset:
            return np.arange(len(batch.input_ids), dtype=np.int64) - np.repeat(starts, lengths)
        # The RoBERTa family counts only tokens that are not the padding's, wherever that stands,
        # and gives the others the position just before the first.
        counted = (batch.input_ids != self._padding_id).astype(np.int64)
        running = counted.cumsum()
        before = np.repeat(running[starts] - counted[starts], lengths)
        positions: TokenArray = (running - before) * counted + self._position_offset - 1
        return positions

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

    def warm_up(self, batch_tokens: int) -> None:
        """Settle on the fastest way and run a first batch through the whole chain.

        Args:
            batch_tokens: Tokens of a usual batch on this device.
        """
        self._batch_tokens = batch_tokens
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
        known = np.arange(self.vocabulary_size)
        # Some models take the padding's id for padding wherever it stands.
        known = known[known != self._padding_id]
        return Batch.pack([generator.choice(known, length) for length in lengths])

    def _try_packed(self, batch: Batch, expected: torch.Tensor) -> None:
        transformer: Any = self._transformer
        if not (self._takes_positions and transformer.is_backend_compatible()):
            return
        plain = transformer.config._attn_implementation
        transformer.set_attn_implementation(PACKED)
        self.packed = True
        self.packed = self._agrees(batch, expected)
        if not self.packed:
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
