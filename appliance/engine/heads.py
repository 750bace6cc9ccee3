# SPDX-License-Identifier: Apache-2.0
"""What stands behind the transformer: the modules from token vectors to a text's vector.

The formulas are those of sentence-transformers' ``Dense``, ``LayerNorm`` and ``Normalize``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from appliance.engine.chain import ChainSpec
from appliance.engine.classifier import split_classifier
from appliance.engine.jobs import Batch
from appliance.engine.lexical import LexicalHead, load_lexical_head
from appliance.engine.modules import (
    ClassifierSpec,
    DenseSpec,
    HeadSpec,
    LayerNormSpec,
    SpladeSpec,
)
from appliance.engine.pooling import SegmentPooling
from appliance.engine.splade import SpladePooling, split_masked_language_model
from appliance.engine.staging import sparse_to_host, to_host, tokens_to_host
from appliance.engine.transformer import execution_device
from appliance.engine.types import Output, Rows
from appliance.engine.weights import read_weights
from appliance.errors import ModelUnavailable

__all__ = ["Chain", "load_chain", "load_heads"]


class Chain(nn.Module):
    """All modules behind the transformer. All but SPLADE's own head compute in float32.

    Args:
        tokens: For token vectors, before the pooling; may be empty.
        pooling: Makes one vector of each text's token vectors.
        texts: For pooled vectors; may be empty.
        dimension: Values of a finished vector; of a classifier, the number of its labels.
        labels: A classifier's labels, in the order of its values.
        lexical: A head beside the pooling, for sparse embeddings.

    Attributes:
        lacks: Why it does not make something that it otherwise would, in a sentence for a client.
    """

    def __init__(
        self,
        tokens: nn.Sequential,
        pooling: nn.Module,
        texts: nn.Sequential,
        dimension: int,
        labels: tuple[str, ...] = (),
        lexical: LexicalHead | None = None,
    ) -> None:
        super().__init__()
        self.dimension = dimension
        self.labels = labels
        self._tokens = tokens
        self._pooling = pooling
        self._texts = texts
        self._lexical = lexical
        self.lacks: dict[Output, str] = {}

    @property
    def gives(self) -> frozenset[Output]:
        """What it makes of a text."""
        if self.labels:
            return frozenset({"scores"})
        if isinstance(self._pooling, SpladePooling):
            return frozenset({"dense", "sparse"})
        if self._lexical is not None:
            return frozenset({"dense", "sparse", "tokens"})
        return frozenset({"dense", "tokens"})

    def begin(
        self, hidden: torch.Tensor, cu_seqlens: torch.Tensor, batch: Batch
    ) -> Callable[[], Rows]:
        """Begin to make of each text what the batch says; arguments as of :meth:`forward`.

        Returns:
            A function that waits for it, as :meth:`Backend.launch` says.
        """
        if batch.output == "tokens":
            return tokens_to_host(self._tokens(hidden.float()), batch.lengths)
        if batch.output == "sparse" and self._lexical is not None:
            return self._lexical.begin(hidden, batch)
        rows = self(hidden, cu_seqlens, batch)
        return sparse_to_host(rows) if batch.output == "sparse" else to_host(rows)

    def forward(self, hidden: torch.Tensor, cu_seqlens: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Reduce each text to one vector.

        Args:
            hidden: Shape ``[tokens, hidden]``: the transformer's output.
            cu_seqlens: int64, shape ``[texts + 1]``, on the same device: where each text starts.
            batch: The same texts.

        Returns:
            float32, shape ``[texts, dimension]``.
        """
        if len(self._tokens):
            hidden = self._tokens(hidden.float())
        vectors: torch.Tensor = self._texts(self._pooling(hidden, cu_seqlens, batch))
        return vectors


def load_chain(
    spec: ChainSpec, model: nn.Module, *, pickles: bool = False, left_out: Collection[int] = ()
) -> tuple[nn.Module, Chain]:
    """Build what stands behind a transformer, and read its weights.

    Args:
        spec: The modules.
        model: The transformer, frozen, on its device; for SPLADE the whole masked language model
            and for a classifier the whole of that, which is taken apart.
        pickles: Whether weights in PyTorch's older format may be read.
        left_out: Ids of tokens that a sparse head leaves out.

    Returns:
        The transformer, and the chain behind it, frozen, on the same device.

    Raises:
        ModelUnavailable: Weights are missing or of another shape, or a module does not fit to the
            one before it.
    """
    transformer, tokens = model, nn.Sequential()
    pooling: nn.Module
    labels: tuple[str, ...] = ()
    lexical, why_none = None, ""
    if isinstance(spec.pooling, SpladeSpec):
        transformer, head, width = split_masked_language_model(model)
        pooling = SpladePooling(head, spec.pooling, width)
    elif isinstance(spec.pooling, ClassifierSpec):
        transformer, classifier = split_classifier(model)
        pooling, width, labels = classifier, len(classifier.labels), classifier.labels
    else:
        assert spec.pooling is not None
        width = _hidden_size(transformer)
        lexical, why_none = load_lexical_head(spec.transformer, width, left_out, pickles=pickles)
        tokens, width = load_heads(spec.token_heads, width, pickles=pickles)
        pooling = SegmentPooling(spec.pooling)
        width *= len(spec.pooling)
    texts, width = load_heads(spec.heads, width, pickles=pickles)
    device = execution_device(transformer)
    chain = Chain(tokens, pooling, texts, width, labels, lexical)
    if why_none:
        chain.lacks["sparse"] = why_none
    return transformer, chain.to(device).eval().requires_grad_(False)


def _hidden_size(transformer: nn.Module) -> int:
    """Values of a token's vector; measured, as configs have many names for it."""
    ids = torch.zeros((1, 1), dtype=torch.int64, device=execution_device(transformer))
    try:
        with torch.no_grad():
            output = transformer(input_ids=ids, attention_mask=torch.ones_like(ids))
        return int(output.last_hidden_state.shape[-1])
    except Exception as error:  # a model's code may raise anything
        raise ModelUnavailable(
            f"{type(transformer).__name__} cannot be run on a first token: {error}"
        ) from error


class Dense(nn.Module):
    """A linear layer and its activation."""

    def __init__(self, spec: DenseSpec, activation: nn.Module) -> None:
        super().__init__()
        self.linear = nn.Linear(spec.in_features, spec.out_features, bias=spec.bias)
        self.activation = activation
        self.residual: nn.Module | None = None
        if spec.residual and spec.in_features == spec.out_features:
            self.residual = nn.Identity()
        elif spec.residual:
            self.residual = nn.Linear(spec.in_features, spec.out_features, bias=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Shape ``[rows, in_features]`` to ``[rows, out_features]``."""
        result: torch.Tensor = self.activation(self.linear(rows))
        return result if self.residual is None else result + self.residual(rows)


class LayerNorm(nn.Module):
    """A layer norm."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dimension)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Shape ``[rows, dimension]``, kept."""
        result: torch.Tensor = self.norm(rows)
        return result


class Normalize(nn.Module):
    """Scaling to unit length."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Shape ``[rows, dimension]``, kept."""
        return nn.functional.normalize(rows, dim=-1)


def load_heads(
    specs: Sequence[HeadSpec], width: int, *, pickles: bool = False
) -> tuple[nn.Sequential, int]:
    """Build modules that follow each other, and read their weights.

    Args:
        specs: The modules, in order.
        width: Values of a vector that comes to the first.
        pickles: Whether weights in PyTorch's older format may be read.

    Returns:
        The modules, and how many values a vector has behind the last.

    Raises:
        ModelUnavailable: Naming the file that is missing, broken, or does not fit.
    """
    heads: list[nn.Module] = []
    for spec in specs:
        if isinstance(spec, DenseSpec):
            _check_width(spec.folder, spec.in_features, width)
            dense = Dense(spec, _activation(spec))
            heads.append(_with_weights(dense, spec.folder, pickles=pickles))
            width = spec.out_features
        elif isinstance(spec, LayerNormSpec):
            _check_width(spec.folder, spec.dimension, width)
            norm = LayerNorm(spec.dimension)
            heads.append(_with_weights(norm, spec.folder, pickles=pickles))
        else:
            heads.append(Normalize())
    return nn.Sequential(*heads), width


def _check_width(folder: Path, taken: int, given: int) -> None:
    if taken != given:
        raise ModelUnavailable(
            f"{folder.name}/config.json says that it takes {taken} values, but {given} come to it"
        )


def _activation(spec: DenseSpec) -> nn.Module:
    kind = getattr(nn, spec.activation.rpartition(".")[2], None)
    if spec.activation.startswith("torch.nn.") and isinstance(kind, type):
        # A layer that needs arguments is no activation.
        with suppress(TypeError):
            activation = kind()
            if isinstance(activation, nn.Module):
                return activation
    raise ModelUnavailable(
        f"{spec.folder.name}/config.json asks for the activation {spec.activation!r}; known are"
        " those of torch.nn"
    )


def _with_weights(module: nn.Module, folder: Path, *, pickles: bool) -> nn.Module:
    weights = read_weights(folder, pickles=pickles)
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelUnavailable(f"{folder.name}: its weights do not fit: {error}") from error
    return module
