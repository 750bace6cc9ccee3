# SPDX-License-Identifier: Apache-2.0
"""A transformer on a device: the ways to run it, and the proof of the fast ones.

A forward pass is packed where that is proven. At load, a few texts of random ids are embedded one
by one through transformers' own attention; then the same texts go through packed, all in one
batch. Only if both agree does the model run packed. Otherwise texts are padded, in groups of
similar length. The same proof decides on prepacked linear layers.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from appliance.engine.attention import PACKED, SEGMENTS, Segments
from appliance.engine.batcher import length_buckets
from appliance.engine.jobs import Batch
from appliance.engine.prepack import (
    PrepackedLinear,
    Replaced,
    can_prepack,
    prepack_linears,
    put_back,
    rounded_rows,
)
from appliance.engine.quantization import dequantized
from appliance.engine.staging import to_device
from appliance.engine.types import TokenArray

__all__ = ["PackedTransformer", "first_position", "longest_by_positions"]

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


def execution_device(module: nn.Module) -> torch.device:
    """Where a module's inputs go: where its weights lie, or are fetched to for each batch."""
    hook = getattr(module, "_hf_hook", None)  # accelerate's, on a module that it has spread out
    device = getattr(hook, "execution_device", None)
    if device is None:
        return next(module.parameters()).device
    return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)


def _is_streamed(module: nn.Module) -> bool:
    hooks = (getattr(part, "_hf_hook", None) for part in module.modules())
    return any(getattr(hook, "offload", False) for hook in hooks)


def _plain(module: nn.Module) -> nn.Module | None:
    """A copy in plain layers, if it is not plain."""
    return module.plain() if isinstance(module, PrepackedLinear) else dequantized(module)


class PackedTransformer:
    """A frozen transformer, run packed or padded.

    Args:
        module: A transformer of transformers' library, in evaluation mode, on its device.
        vocabulary_size: Ids that it can read are below this.
        max_input_tokens: Longest text that it reads.

    Attributes:
        module: The transformer.
        device: Where its inputs go and its outputs lie.
        dtype: Number format that it computes in.
        packed: Whether texts run end to end.
        prepacked: Whether its linear layers are rearranged for the CPU's kernels.
        compiled: Whether torch.compile has made one program of it.
        is_streamed: Whether some of its weights are fetched from RAM or disk for each batch.
    """

    def __init__(self, module: nn.Module, vocabulary_size: int, max_input_tokens: int) -> None:
        self.module = module
        self.packed = False
        self.prepacked = False
        self.compiled = False
        self._run: Callable[..., Any] = module
        model: Any = module
        self.is_streamed = _is_streamed(module)
        self.device = execution_device(module)
        self.dtype: torch.dtype = model.dtype
        self._vocabulary_size = vocabulary_size
        self._max_input_tokens = max_input_tokens
        self._group_tokens = max_input_tokens
        takes = inspect.signature(module.forward).parameters
        self._takes_positions = "position_ids" in takes
        # Some have the argument and a table of one row.
        kinds = getattr(model.config, "type_vocab_size", 2)
        self._takes_types = "token_type_ids" in takes and kinds > 1
        self._position_offset = first_position(module)
        self._padding_id = int(getattr(model.config, "pad_token_id", None) or 0)

    def hidden(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Token vectors of a batch.

        Returns:
            Shape ``[tokens, hidden]``, texts end to end, and the batch's ``cu_seqlens``, int64,
            both on the device.
        """
        tokens = len(batch.input_ids)
        fill = rounded_rows(tokens) - tokens if self.packed and self.prepacked else 0
        types = batch.token_types if self._takes_types else None
        ids, positions, cu_seqlens, *more = to_device(
            self.device,
            np.pad(batch.input_ids, (0, fill), constant_values=self._padding_id),
            np.pad(self._positions(batch), (0, fill), constant_values=self._position_offset),
            batch.cu_seqlens,
            *(() if types is None else (np.pad(types, (0, fill)),)),
        )
        if not self.packed:
            return self._run_padded(batch), cu_seqlens
        output = self._run(
            input_ids=ids.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            attention_mask=None,
            **({"token_type_ids": more[0].unsqueeze(0)} if more else {}),
            **{SEGMENTS: Segments.of(torch.from_numpy(batch.lengths), cu_seqlens.int())},
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden[0, :tokens], cu_seqlens

    def in_float32(self) -> PackedTransformer:
        """A copy that computes in float32, run the same way."""
        plain = {id(module): _plain(module) for module in self.module.modules()}
        twin = copy.copy(self)
        copies = {key: module for key, module in plain.items() if module is not None}
        # transformers' own .float() refuses where weights were quantised; here none is any more.
        twin.module = twin._run = nn.Module.float(copy.deepcopy(self.module, copies))
        twin.dtype = torch.float32
        return twin

    def release(self) -> None:
        """Let go of the module, and of the program made of it."""
        self.module = self._run = nn.Identity()

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
        for group in length_buckets(lengths.tolist(), self._group_tokens):
            ids = np.full((len(group), lengths[group[0]]), self._padding_id, dtype=np.int64)
            mask = np.zeros_like(ids)
            types = np.zeros_like(ids)
            for row, text in enumerate(group):
                start, end = batch.cu_seqlens[text], batch.cu_seqlens[text + 1]
                ids[row, : end - start] = batch.input_ids[start:end]
                mask[row, : end - start] = 1
                if batch.token_types is not None:
                    types[row, : end - start] = batch.token_types[start:end]
            has_types = batch.token_types is not None and self._takes_types
            output = self._run(
                input_ids=torch.from_numpy(ids).to(self.device),
                attention_mask=torch.from_numpy(mask).to(self.device),
                **(
                    {"token_type_ids": torch.from_numpy(types).to(self.device)} if has_types else {}
                ),
            )
            for row, text in enumerate(group):
                pieces[text] = output.last_hidden_state[row, : lengths[text]]
        return torch.cat(pieces)

    def prove(
        self,
        batch_tokens: int,
        *,
        packed: bool = True,
        prepacked: bool = True,
        compiled: bool = False,
    ) -> None:
        """Find the fastest way whose results are those of the plain one, and take it.

        Args:
            batch_tokens: Tokens of a usual batch on this device.
            packed: Try texts end to end.
            prepacked: Try prepacked linear layers, on a CPU.
            compiled: Try torch.compile, which prepacks by itself.
        """
        self._group_tokens = batch_tokens
        batch = self.probe_batch()
        plain = [
            self._run_padded(Batch.pack([batch.input_ids[start:end]]))
            for start, end in zip(batch.cu_seqlens, batch.cu_seqlens[1:], strict=False)
        ]
        expected = torch.cat(plain).float()
        if packed:
            self._try_packed(batch, expected)
        if compiled:
            self._try_compiled(batch, expected)
        on_cpu = self.device.type == "cpu"
        if prepacked and not self.compiled and on_cpu and can_prepack(self.dtype):
            self._try_prepacked(batch, expected)

    def probe_batch(self) -> Batch:
        """A few texts of random ids, of lengths that show a mistake."""
        generator = np.random.default_rng(0)
        longest = max(self._max_input_tokens, 1)
        lengths = sorted(min(length, longest) for length in _PROBE_LENGTHS)
        model: Any = self.module
        window = getattr(model.config, "sliding_window", None)
        if isinstance(window, int) and window < 4096:
            lengths.append(min(window + window // 2, longest))
        known = np.arange(self._vocabulary_size)
        # Some models take the padding's id for padding wherever it stands.
        known = known[known != self._padding_id]
        return Batch.pack([generator.choice(known, length) for length in lengths])

    def _try_packed(self, batch: Batch, expected: torch.Tensor) -> None:
        transformer: Any = self.module
        if not (self._takes_positions and transformer.is_backend_compatible()):
            return
        plain = transformer.config._attn_implementation
        transformer.set_attn_implementation(PACKED)
        self.packed = True
        self.packed = self._agrees(batch, expected)
        if not self.packed:
            transformer.set_attn_implementation(plain)

    def _try_prepacked(self, batch: Batch, expected: torch.Tensor) -> None:
        for fuse in (True, False):
            replaced: list[Replaced] = []
            try:
                replaced = prepack_linears(self.module, self._group_tokens, fuse=fuse)
            except RuntimeError as error:  # a dtype that the operators do not take
                logger.debug("linear layers stay as they are: %s", error)
                return
            self.prepacked = bool(replaced) and self._agrees(batch, expected)
            if self.prepacked:
                return
            put_back(replaced)

    def _try_compiled(self, batch: Batch, expected: torch.Tensor) -> None:
        freezing = self.device.type == "cpu"  # weights become constants, laid out for the kernels
        self._run = torch.compile(self.module, dynamic=True, options={"freezing": freezing})
        self.compiled = self._agrees(batch, expected)
        if not self.compiled:
            self._run = self.module
            logger.warning("torch.compile failed its proof; the model runs without it")
            return
        # A length of one is another program to torch.compile: made now, not at a request.
        for single in (Batch.pack([batch.input_ids[:3]]), Batch.pack([batch.input_ids[:1]])):
            self.hidden(single)

    def _agrees(self, batch: Batch, expected: torch.Tensor) -> bool:
        try:
            found = self.hidden(batch)[0].float()
        except Exception as error:  # a model's code may raise anything when run in a new way
            logger.debug("a faster way failed its proof: %s", error)
            return False
        largest = expected.abs().max().clamp_min(1e-6)
        return bool((found - expected).abs().max() / largest < _PROBE_TOLERANCE[self.dtype])
