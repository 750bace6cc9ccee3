# SPDX-License-Identifier: Apache-2.0
"""A model on a device: the whole chain from token ids to vectors."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from appliance.engine.heads import Chain
from appliance.engine.registry import ModelSpec
from appliance.engine.staging import to_host
from appliance.engine.tokenizer import ModelTokenizer
from appliance.engine.transformer import PackedTransformer
from appliance.engine.types import Batch, DeviceOutOfMemory, FloatMatrix

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

    Attributes:
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
    ) -> None:
        self._compiled = compiled
        self.fidelity: float | None = None
        self.tokenizer = tokenizer
        self.max_input_tokens = max_input_tokens
        self.prompts = spec.prompts
        self.default_prompt_name = spec.default_prompt_name
        self.pools_prompt = spec.chain.pools_prompt
        self._chain = chain
        model: Any = transformer
        rows = model.get_input_embeddings().num_embeddings
        # Either may be the larger: rows kept for later, or words added without a row.
        self.vocabulary_size = min(tokenizer.vocabulary_size, rows)
        self.transformer = PackedTransformer(transformer, self.vocabulary_size, max_input_tokens)
        self.device_name = str(self.transformer.device)
        self.dimension = chain.dimension

    @property
    def runs_alone(self) -> bool:
        """Whether it takes one batch at a time: it fetches its weights for each."""
        return self.transformer.is_streamed

    @property
    def is_half_precision(self) -> bool:
        """Whether its numbers may overflow where float32's would not, and it can be helped."""
        return self.transformer.dtype != torch.float32 and not self.transformer.is_streamed

    def launch(self, batch: Batch) -> Callable[[], FloatMatrix]:
        """Begin to embed a batch; on a GPU, return while it still computes.

        Returns:
            A function that waits for the vectors: float32, shape ``[texts, dimension]``, the
            chain's own output.

        Raises:
            DeviceOutOfMemory: It needs more memory than there is.
        """
        with torch.inference_mode(), _told_out_of_memory():
            return to_host(self._chain(*self.transformer.hidden(batch), batch))

    def forward(self, batch: Batch) -> FloatMatrix:
        """Embed a batch; see :meth:`launch`."""
        return self.launch(batch)()

    def forward_in_float32(self, batch: Batch) -> FloatMatrix:
        """Embed a batch in float32, by a copy of the weights that is thrown away afterwards.

        Raises:
            DeviceOutOfMemory: It needs more memory than there is.
        """
        with torch.inference_mode(), _told_out_of_memory():
            chain = copy.deepcopy(self._chain).float()
            return to_host(chain(*self.transformer.in_float32().hidden(batch), batch))()

    def warm_up(self, batch_tokens: int) -> None:
        """Settle on the fastest way and run a first batch through the whole chain.

        Args:
            batch_tokens: Tokens of a usual batch on this device.
        """
        transformer = self.transformer
        with torch.inference_mode():
            transformer.prove(batch_tokens, compiled=self._compiled)
        self.forward(transformer.probe_batch())
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


@contextmanager
def _told_out_of_memory() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        # What other batches left behind in odd sizes may be all that is missing.
        torch.cuda.empty_cache()
        raise DeviceOutOfMemory(str(error)) from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        raise DeviceOutOfMemory(str(error)) from error
