# SPDX-License-Identifier: Apache-2.0
"""What a model is, read from its own files.

The files are those that sentence-transformers writes: ``modules.json`` names a chain of modules,
each with a folder. Both spellings are read, the old (``sentence_transformers.models.Pooling``,
``pooling_mode_mean_tokens``) and the new (``pooling_mode``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from appliance.errors import ModelUnavailable
from appliance.settings import ModelSettings

__all__ = ["DenseSpec", "ModelSpec", "read_model_spec"]

Content = TypeVar("Content")

_POOLING_MODES = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last_token",
}


class ModuleEntry(msgspec.Struct):
    """One entry of ``modules.json``."""

    type: str
    path: str = ""


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


class DenseConfig(msgspec.Struct):
    """``2_Dense/config.json``."""

    in_features: int
    out_features: int
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"
    use_residual: bool = False
    module_input_name: str = "sentence_embedding"


class TransformerConfig(msgspec.Struct):
    """``sentence_bert_config.json``, whose name varied with the transformer once."""

    max_seq_length: int | None = None
    do_lower_case: bool = False


class GeneralConfig(msgspec.Struct):
    """``config_sentence_transformers.json``."""

    prompts: dict[str, str] | None = None
    default_prompt_name: str | None = None


@dataclass(frozen=True, slots=True)
class DenseSpec:
    """A linear layer behind the pooling."""

    folder: Path
    in_features: int
    out_features: int
    bias: bool
    activation: str
    """Full name of a ``torch.nn`` class."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The chain from token ids to a vector.

    Attributes:
        transformer: Folder of the transformer's config, weights and tokenizer.
        pooling: Modes whose results are laid side by side.
        dense: Linear layers behind the pooling, in order.
        normalizes: Whether the chain ends in unit length.
        max_seq_length: Longest input in tokens that the files state, if they do.
        lower_case: Whether text is lowered before it is tokenised.
        prompts: Words to put before a text, by name.
        default_prompt_name: The prompt to use where nothing is said.
        pools_prompt: Whether the prompt's own tokens count in the vector.
    """

    transformer: Path
    pooling: tuple[str, ...]
    dense: tuple[DenseSpec, ...]
    normalizes: bool
    max_seq_length: int | None
    lower_case: bool
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    pools_prompt: bool = True


def read_model_spec(folder: Path, settings: ModelSettings) -> ModelSpec:
    """Read a model's chain.

    Args:
        folder: Local folder with the model's files.
        settings: May override the pooling.

    Raises:
        ModelUnavailable: A file is broken or asks for something that is not supported.
    """
    transformer = folder
    pooling: tuple[str, ...] = ("mean",)  # of a plain transformer, as sentence-transformers has it
    dense: list[DenseSpec] = []
    normalizes = False
    pools_prompt = True
    for module in _read(folder / "modules.json", list[ModuleEntry]) or []:
        path = folder / module.path
        kind = module.type.rpartition(".")[2]
        if normalizes:
            raise ModelUnavailable(f"modules.json has a {kind} behind Normalize")
        if kind == "Transformer":
            transformer = path
        elif kind == "Pooling":
            config = _require(path / "config.json", PoolingConfig)
            pooling, pools_prompt = _pooling_modes(config), config.include_prompt
        elif kind == "Dense":
            dense.append(_dense(path))
        elif kind == "Normalize":
            normalizes = True
        else:
            raise ModelUnavailable(
                f"modules.json asks for a module {kind!r}; known are Transformer, Pooling, Dense"
                " and Normalize"
            )
    if settings.pooling is not None:
        pooling = (settings.pooling,)
    limits = [
        _require(path, TransformerConfig)
        for path in sorted(transformer.glob("sentence_*_config.json"))
    ] or [TransformerConfig()]
    general = _read(folder / "config_sentence_transformers.json", GeneralConfig) or GeneralConfig()
    return ModelSpec(
        transformer=transformer,
        pooling=pooling,
        dense=tuple(dense),
        normalizes=normalizes,
        max_seq_length=limits[0].max_seq_length,
        lower_case=limits[0].do_lower_case,
        prompts=general.prompts or {},
        default_prompt_name=general.default_prompt_name,
        pools_prompt=pools_prompt,
    )


def _read(path: Path, kind: type[Content]) -> Content | None:
    return _require(path, kind) if path.is_file() else None


def _require(path: Path, kind: type[Content]) -> Content:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise ModelUnavailable(f"{path.name} cannot be read: {error}") from error


def _pooling_modes(config: PoolingConfig) -> tuple[str, ...]:
    names = config.names()
    if unknown := [name for name in names if name not in _POOLING_MODES]:
        known = ", ".join(_POOLING_MODES)
        raise ModelUnavailable(f"unknown pooling mode {unknown[0]!r}; known are {known}")
    return tuple(_POOLING_MODES[name] for name in names)


def _dense(folder: Path) -> DenseSpec:
    config = _require(folder / "config.json", DenseConfig)
    if config.use_residual or config.module_input_name != "sentence_embedding":
        raise ModelUnavailable("its Dense module is of a kind that is not supported")
    return DenseSpec(
        folder=folder,
        in_features=config.in_features,
        out_features=config.out_features,
        bias=config.bias,
        activation=config.activation_function,
    )
