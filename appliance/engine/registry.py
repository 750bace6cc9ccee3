# SPDX-License-Identifier: Apache-2.0
"""What a model is, read from its own files.

The files are those that sentence-transformers writes: ``modules.json`` names a chain of modules,
each with a folder. Both spellings are read, the old (``sentence_transformers.models.Pooling``,
``pooling_mode_mean_tokens``) and the new (``pooling_mode``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import ModelUnavailable
from appliance.settings import ModelSettings

__all__ = ["DenseSpec", "ModelSpec", "read_model_spec"]

_OLD_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last_token",
}
_NEW_POOLING_NAMES = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last_token",
}


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
    """

    transformer: Path
    pooling: tuple[str, ...]
    dense: tuple[DenseSpec, ...]
    normalizes: bool
    max_seq_length: int | None
    lower_case: bool


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
    for module in _read_json(folder / "modules.json", default=[]):
        path = folder / module.get("path", "")
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Transformer":
            transformer = path
        elif kind == "Pooling":
            pooling = _pooling_modes(_read_json(path / "config.json"))
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
    limits = _read_json(transformer / "sentence_bert_config.json", default={})
    return ModelSpec(
        transformer=transformer,
        pooling=pooling,
        dense=tuple(dense),
        normalizes=normalizes,
        max_seq_length=limits.get("max_seq_length"),
        lower_case=bool(limits.get("do_lower_case", False)),
    )


def _read_json(path: Path, default: Any = None) -> Any:
    if default is not None and not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{path.name} cannot be read: {error}") from error


def _pooling_modes(config: dict[str, Any]) -> tuple[str, ...]:
    if not config.get("include_prompt", True):
        raise ModelUnavailable("its pooling leaves out the prompt, which is not supported")
    named = config.get("pooling_mode")
    if named is None:
        modes = [mode for key, mode in _OLD_POOLING_KEYS.items() if config.get(key)]
    else:
        names = [named] if isinstance(named, str) else list(named)
        if unknown := [name for name in names if name not in _NEW_POOLING_NAMES]:
            known = ", ".join(_NEW_POOLING_NAMES)
            raise ModelUnavailable(f"unknown pooling mode {unknown[0]!r}; known are {known}")
        modes = [_NEW_POOLING_NAMES[name] for name in names]
    if not modes:
        raise ModelUnavailable("its pooling config names no mode; set `pooling` for this model")
    return tuple(modes)


def _dense(folder: Path) -> DenseSpec:
    config = _read_json(folder / "config.json")
    if config.get("use_residual") or config.get("module_input_name", "sentence_embedding") != (
        "sentence_embedding"
    ):
        raise ModelUnavailable("its Dense module is of a kind that is not supported")
    return DenseSpec(
        folder=folder,
        in_features=int(config["in_features"]),
        out_features=int(config["out_features"]),
        bias=bool(config.get("bias", True)),
        activation=str(config.get("activation_function", "torch.nn.modules.activation.Tanh")),
    )
