# SPDX-License-Identifier: Apache-2.0
"""A model on a device: the whole chain from token ids to vectors."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from appliance.engine.backend import Parking
from appliance.engine.chain import ChainSpec
from appliance.engine.heads import Chain
from appliance.engine.jobs import Batch
from appliance.engine.modules import NormalizeSpec, SpladeSpec
from appliance.engine.parking import Weights
from appliance.engine.registry import ModelSpec
from appliance.engine.scratch import Scratch, telling_out_of_memory
from appliance.engine.splade import LOGITS_BYTES_ELSEWHERE
from appliance.engine.swap_folder import SwapFolder
from appliance.engine.tokenizer import ModelTokenizer
from appliance.engine.transformer import PackedTransformer
from appliance.engine.types import FloatMatrix, ModelCard, ModelKind, Output, Rows

__all__ = ["TorchBackend"]

logger = logging.getLogger(__name__)


class TorchBackend:
    """One loaded model.

    Args:
        spec: What its files say.
        transformer: The transformer, frozen, on its device.
        chain: What stands behind it, on the same device.
        tokenizer: Its tokenizer.
        max_input_tokens: Longest text that it reads.
        compiled: Use torch.compile.
        spill: Folder with layers for which there is no memory.

    Attributes:
        gives: What it makes of a text.
        lacks: Why it does not make something of a text that it otherwise would.
        fidelity: Least cosine to the same model in float32, where it was measured.
    """

    def __init__(
        self,
        spec: ModelSpec,
        transformer: nn.Module,
        chain: Chain,
        tokenizer: ModelTokenizer,
        max_input_tokens: int,
        *,
        compiled: bool = False,
        spill: SwapFolder | None = None,
    ) -> None:
        self._spec = spec
        self._spill = spill
        self._compiled = compiled
        self.fidelity: float | None = None
        self.tokenizer = tokenizer
        self.max_input_tokens = max_input_tokens
        self.prompts = spec.prompts
        self.default_prompt_name = spec.default_prompt_name
        self.revision = spec.revision
        self.pools_prompt = spec.chain.pools_prompt
        self._chain = chain
        model: Any = transformer
        self._architecture = str(model.config.model_type)
        rows = model.get_input_embeddings().num_embeddings
        # Either may be the larger: rows kept for later, or words added without a row.
        self.vocabulary_size = min(tokenizer.vocabulary_size, rows)
        self.transformer = PackedTransformer(transformer, self.vocabulary_size, max_input_tokens)
        self.device_name = str(self.transformer.device)
        self.dimension = chain.dimension
        self.gives = chain.gives
        self.lacks: Mapping[Output, str] = chain.lacks
        self._folders = _weights_folders(spec.chain)
        self._weights: Weights | None = None
        is_sparse = isinstance(spec.chain.pooling, SpladeSpec)
        self._scratch = Scratch(
            self.transformer.device, transformer, LOGITS_BYTES_ELSEWHERE if is_sparse else 0
        )
        self._scratch.expect(max_input_tokens)

    @property
    def card(self) -> ModelCard:
        """What it is."""
        pooling = self._spec.chain.pooling
        modes = "+".join(pooling) if isinstance(pooling, tuple) else None
        return ModelCard(
            kind=self._kind,
            dimension=self.dimension,
            max_input_tokens=self.max_input_tokens,
            pooling="splade" if isinstance(pooling, SpladeSpec) else modes,
            dtype=str(self.transformer.dtype).removeprefix("torch."),
            revision=self.revision,
            labels=self._chain.labels,
            prompts=self.prompts,
            gives=self.gives,
            lacks=self.lacks,
            architecture=self._architecture,
        )

    @property
    def _kind(self) -> ModelKind:
        if labels := self._chain.labels:
            return "reranker" if len(labels) == 1 else "classifier"
        return "sparse" if isinstance(self._spec.chain.pooling, SpladeSpec) else "embedding"

    @property
    def runs_alone(self) -> bool:
        """Whether it takes one batch at a time: it fetches its weights for each."""
        return self.transformer.is_streamed

    @property
    def is_half_precision(self) -> bool:
        """Whether its numbers may overflow where float32's would not, and it can be helped."""
        return self.transformer.dtype != torch.float32 and not self.transformer.is_streamed

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes that its weights take of each device when they are there."""
        return self._found_weights().sizes

    @property
    def scratch_bytes(self) -> int:
        """Bytes that a batch takes of its device beside the weights, as far as is known.

        Estimated, then corrected by what the largest batches took; 0 on a CPU.
        """
        return self._scratch.nbytes

    @property
    def can_park(self) -> bool:
        """Whether its weights can be put away and had back.

        Not where accelerate fetches them for each batch, nor where torch.compile has made
        constants of them.
        """
        transformer = self.transformer
        is_frozen = transformer.compiled and transformer.device.type == "cpu"
        return not (transformer.is_streamed or is_frozen)

    @property
    def parked_bytes(self) -> Mapping[str, int]:
        """Bytes that copies of its weights take of each tier, also while they are back."""
        return {} if self._weights is None else self._weights.parked_bytes

    def kept(self, keep_bytes: int) -> Mapping[str, int]:
        """Bytes of each device that stay taken while the weights are put away.

        Args:
            keep_bytes: As in :class:`Parking`.
        """
        return self._found_weights().kept(keep_bytes)

    def park(self, parking: Parking) -> None:
        """Put the weights away and give their memory back. Never while a batch is under way.

        Raises:
            ParkingFailed: They are still where they were.
        """
        self._found_weights().park(parking)

    def restore(self) -> None:
        """Bring the weights back to their device.

        Raises:
            DeviceOutOfMemory: There is no room; they are still where they were put.
            WeightsLost: What was put away is gone, broken or not the same any more.
        """
        self._found_weights().restore()

    def close(self) -> None:
        """Give back all that it holds, wherever that is. It is of no use afterwards."""
        weights = self._found_weights()
        if not self.can_park:
            self.transformer.release()  # a compiled program has the weights in it
        weights.close()
        if self._spill is not None:
            self._spill.close()

    def _found_weights(self) -> Weights:
        if self._weights is None:
            self._weights = Weights((self.transformer.module, self._chain), self._folders)
        return self._weights

    def launch(self, batch: Batch) -> Callable[[], Rows]:
        """Begin to make of a batch what it is to become; on a GPU, return while it still computes.

        Returns:
            A function that waits for it; see :meth:`Backend.launch`.

        Raises:
            DeviceOutOfMemory: It needs more memory than there is.
        """
        if self._weights is not None and self._weights.is_parked:
            raise RuntimeError("the model's weights are put away")
        with (
            torch.inference_mode(),
            telling_out_of_memory(),
            self._scratch.measuring(len(batch.input_ids)),
        ):
            begun = self._chain.begin(*self.transformer.hidden(batch), batch)

        def wait() -> Rows:
            with telling_out_of_memory():  # some of it is only made when it is fetched
                return begun()

        return wait

    def forward(self, batch: Batch) -> FloatMatrix:
        """Wait for a batch of which vectors or scores are wanted; see :meth:`launch`."""
        rows = self.launch(batch)()
        assert isinstance(rows, np.ndarray)
        return rows

    def forward_in_float32(self, batch: Batch) -> Rows:
        """The same in float32, by a copy of the weights that is thrown away afterwards.

        Raises:
            DeviceOutOfMemory: It needs more memory than there is.
        """
        with torch.inference_mode(), telling_out_of_memory():
            chain: Chain = copy.deepcopy(self._chain).float()
            return chain.begin(*self.transformer.in_float32().hidden(batch), batch)()

    def warm_up(self, batch_tokens: int) -> None:
        """Settle on the fastest way and run a first batch through the whole chain.

        Args:
            batch_tokens: Tokens of a usual batch on this device.
        """
        transformer = self.transformer
        self._scratch.expect(batch_tokens)
        with torch.inference_mode():
            transformer.prove(batch_tokens, compiled=self._compiled)
        probe = transformer.probe_batch()
        if "scores" in self.gives:  # of a pair, which is another program to torch.compile
            types = np.zeros_like(probe.input_ids)
            probe = replace(probe, output="scores", token_types=types)
        self.forward(probe)
        self._weights = None  # what was found before is not what it computes with now
        logger.info(
            "%s: %s on %s, %s, %s",
            type(transformer.module).__name__,
            str(transformer.dtype).removeprefix("torch."),
            transformer.device,
            "packed" if transformer.packed else "padded",
            "compiled"
            if transformer.compiled
            else f"{'prepacked' if transformer.prepacked else 'plain'} linear layers",
        )


def _weights_folders(chain: ChainSpec) -> list[Path]:
    heads = (*chain.token_heads, *chain.heads)
    of_heads = [head.folder for head in heads if not isinstance(head, NormalizeSpec)]
    return [chain.transformer, *of_heads]
