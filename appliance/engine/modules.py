# SPDX-License-Identifier: Apache-2.0
"""What the config of each of sentence-transformers' modules says.

A module has a folder with a ``config.json`` and, if it has weights, ``model.safetensors``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from appliance.errors import ModelUnavailable

__all__ = [
    "TEXTS",
    "TOKENS",
    "ClassifierSpec",
    "DenseSpec",
    "HeadSpec",
    "LayerNormSpec",
    "NormalizeSpec",
    "SpladeSpec",
    "read_head",
    "read_json",
    "read_pooling",
    "read_splade",
]

Content = TypeVar("Content")

TOKENS = "token_embeddings"
"""sentence-transformers' name for the vectors of tokens."""
TEXTS = "sentence_embedding"
"""sentence-transformers' name for the vectors of texts."""

_POOLING_MODES = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last_token",
}


class PoolingConfig(msgspec.Struct):
    """``1_Pooling/config.json``, in both spellings."""

    pooling_mode: str | list[str] | None = None
    include_prompt: bool = True
    pooling_mode_cls_token: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False

    def names(self) -> list[str]:
        """The modes by their new names."""
        if self.pooling_mode is not None:
            return [self.pooling_mode] if isinstance(self.pooling_mode, str) else self.pooling_mode
        old = {
            "cls": self.pooling_mode_cls_token,
            "max": self.pooling_mode_max_tokens,
            "mean": self.pooling_mode_mean_tokens,
            "mean_sqrt_len_tokens": self.pooling_mode_mean_sqrt_len_tokens,
            "weightedmean": self.pooling_mode_weightedmean_tokens,
            "lasttoken": self.pooling_mode_lasttoken,
        }
        return [name for name, wanted in old.items() if wanted] or ["mean"]


class SpladeConfig(msgspec.Struct):
    """``1_SpladePooling/config.json``."""

    pooling_strategy: Literal["max", "sum"] = "max"
    activation_function: Literal["relu", "log1p_relu"] = "relu"


class FeatureConfig(msgspec.Struct):
    """What the configs of ``Dense`` and ``Normalize`` say of where they read and write."""

    module_input_name: str = TEXTS
    module_output_name: str | None = None


class DenseConfig(FeatureConfig, kw_only=True):
    """``2_Dense/config.json``."""

    in_features: int
    out_features: int
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"
    use_residual: bool = False


class LayerNormConfig(msgspec.Struct):
    """``2_LayerNorm/config.json``."""

    dimension: int


@dataclass(frozen=True, slots=True)
class DenseSpec:
    """A linear layer and its activation."""

    folder: Path
    in_features: int
    out_features: int
    bias: bool
    activation: str
    """Full name of a ``torch.nn`` class."""
    residual: bool
    """Whether its input is added to its output, through a linear layer where the sizes differ."""


@dataclass(frozen=True, slots=True)
class LayerNormSpec:
    """A layer norm."""

    folder: Path
    dimension: int


@dataclass(frozen=True, slots=True)
class NormalizeSpec:
    """Scaling to unit length."""


HeadSpec = DenseSpec | LayerNormSpec | NormalizeSpec


@dataclass(frozen=True, slots=True)
class SpladeSpec:
    """How the logits of a masked language model become one value for each word."""

    strategy: Literal["max", "sum"] = "max"
    """What is taken over a text's tokens."""
    twice: bool = False
    """Whether the logarithm is taken twice."""


@dataclass(frozen=True, slots=True)
class ClassifierSpec:
    """The head of a model that classifies texts or scores pairs, in the pooling's place."""


def read_pooling(folder: Path) -> tuple[tuple[str, ...], bool]:
    """Read a ``Pooling``.

    Returns:
        Its modes by this engine's names, and whether the prompt's own tokens count.

    Raises:
        ModelUnavailable: Its config is broken, or has a mode that is not known.
    """
    config = read_json(folder / "config.json", PoolingConfig)
    names = config.names()
    if unknown := [name for name in names if name not in _POOLING_MODES]:
        known = ", ".join(_POOLING_MODES)
        raise ModelUnavailable(
            f"{folder.name}/config.json has an unknown pooling mode {unknown[0]!r}; known are"
            f" {known}"
        )
    return tuple(_POOLING_MODES[name] for name in names), config.include_prompt


def read_splade(folder: Path) -> SpladeSpec:
    """Read a ``SpladePooling``.

    Raises:
        ModelUnavailable: Its config is broken.
    """
    config = read_json(folder / "config.json", SpladeConfig)
    return SpladeSpec(config.pooling_strategy, config.activation_function == "log1p_relu")


def read_head(kind: str, folder: Path, feature: str) -> HeadSpec:
    """Read a module that works on one feature: token vectors or pooled ones.

    Args:
        kind: ``Dense``, ``LayerNorm`` or ``Normalize``.
        folder: The module's own.
        feature: What it has to read and write: :data:`TOKENS` or :data:`TEXTS`.

    Raises:
        ModelUnavailable: Its config is broken, or names another feature.
    """
    path = folder / "config.json"
    if kind == "Dense":
        dense = read_json(path, DenseConfig)
        _check_feature(dense, folder, feature)
        return DenseSpec(
            folder=folder,
            in_features=dense.in_features,
            out_features=dense.out_features,
            bias=dense.bias,
            activation=dense.activation_function,
            residual=dense.use_residual,
        )
    if kind == "LayerNorm":
        _check_feature(FeatureConfig(), folder, feature)
        return LayerNormSpec(folder, read_json(path, LayerNormConfig).dimension)
    # Its folder used to be empty.
    normalize = read_json(path, FeatureConfig) if path.is_file() else FeatureConfig()
    _check_feature(normalize, folder, feature)
    return NormalizeSpec()


def _check_feature(config: FeatureConfig, folder: Path, feature: str) -> None:
    reads = config.module_input_name
    writes = config.module_output_name or reads
    if (reads, writes) != (feature, feature):
        place = "before" if feature == TOKENS else "behind"
        raise ModelUnavailable(
            f"{folder.name} turns {reads} into {writes}; a module {place} the pooling can only turn"
            f" {feature} into {feature}"
        )


def read_json(path: Path, kind: type[Content]) -> Content:
    """Read a file of JSON.

    Raises:
        ModelUnavailable: It is missing, broken, or not of that kind.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        # Every module has a config.json.
        name = f"{path.parent.name}/{path.name}" if path.name == "config.json" else path.name
        raise ModelUnavailable(f"{name} cannot be read: {error}") from error
