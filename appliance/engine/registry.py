# SPDX-License-Identifier: Apache-2.0
"""What a model is, read from its own files and the settings.

The files are those that sentence-transformers writes; see :mod:`appliance.engine.chain` for the
chain of modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from appliance.engine.chain import ChainSpec, read_chain
from appliance.engine.modules import ClassifierSpec, SpladeSpec, read_json
from appliance.errors import ModelUnavailable
from appliance.settings import ModelSettings

__all__ = ["ModelSpec", "read_model_spec"]


class Wanted(NamedTuple):
    """What a pooling takes of the transformer, by sentence-transformers' names."""

    pooling: str
    task: str
    output: str
    name: str = "token_embeddings"


DENSE = Wanted("Pooling", "feature-extraction", "last_hidden_state")
SPLADE = Wanted("SpladePooling", "fill-mask", "logits")
SCORES = Wanted("a classifier's head", "sequence-classification", "logits", "scores")


class Modality(msgspec.Struct):
    """How ``sentence_bert_config.json`` has one kind of input read."""

    method: str
    method_output_name: str | list[str] | None = None


class TokenizerArguments(msgspec.Struct):
    """Arguments for the tokenizer that stand in ``sentence_bert_config.json``."""

    model_max_length: int | None = None


class TransformerConfig(msgspec.Struct):
    """``sentence_bert_config.json``, whose name varied with the transformer once.

    Newer files leave the longest input to the tokenizer's own files.
    """

    max_seq_length: int | None = None
    do_lower_case: bool = False
    transformer_task: str | None = None
    modality_config: dict[str, Modality] | None = None
    module_output_name: str = "token_embeddings"
    config_args: dict[str, Any] | None = None
    config_kwargs: dict[str, Any] | None = None
    tokenizer_args: TokenizerArguments | None = None
    processor_kwargs: TokenizerArguments | None = None


class GeneralConfig(msgspec.Struct):
    """``config_sentence_transformers.json``."""

    prompts: dict[str, str] | None = None
    default_prompt_name: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as its files and the settings have it.

    Attributes:
        chain: The modules from token ids to a vector.
        max_seq_length: Longest input in tokens that the files state, if they do.
        lower_case: Whether text is lowered before it is tokenised.
        config_overrides: Values that take the place of those in the transformer's config.
        prompts: Words to put before a text, by name.
        default_prompt_name: The prompt to use where nothing is said.
        revision: The hub's commit that the files are of, if they came from there.
    """

    chain: ChainSpec
    max_seq_length: int | None = None
    lower_case: bool = False
    config_overrides: Mapping[str, Any] = field(default_factory=dict)
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    revision: str | None = None


def read_model_spec(folder: Path, settings: ModelSettings) -> ModelSpec:
    """Read what a model is.

    Args:
        folder: Local folder with the model's files.
        settings: May override the pooling.

    Raises:
        ModelUnavailable: A file is broken or asks for something that is not supported.
    """
    chain = read_chain(folder)
    if settings.pooling is not None:
        if chain.is_static and settings.pooling != "mean":
            raise ModelUnavailable(
                f"pooling is {settings.pooling!r}, but StaticEmbedding can only take the mean"
            )
        is_splade = settings.pooling == "splade"
        chain = replace(chain, pooling=SpladeSpec() if is_splade else (settings.pooling,))
    if (chain.transformer / "adapter_config.json").is_file():
        raise ModelUnavailable(
            "adapter_config.json says that it is an adapter to another model; only a model that"
            " it has been merged into (peft's merge_and_unload) is supported"
        )
    if chain.pooling is None:
        raise ModelUnavailable("modules.json has no pooling; the setting pooling can name one")
    config_file = next(iter(sorted(chain.transformer.glob("sentence_*_config.json"))), None)
    config = read_json(config_file, TransformerConfig) if config_file else TransformerConfig()
    if config_file and settings.pooling is None:
        _check_output(config, config_file.name, _wanted(chain))
    general_file = folder / "config_sentence_transformers.json"
    general = read_json(general_file, GeneralConfig) if general_file.is_file() else GeneralConfig()
    tokenizer = config.processor_kwargs or config.tokenizer_args or TokenizerArguments()
    return ModelSpec(
        chain=chain,
        max_seq_length=tokenizer.model_max_length or config.max_seq_length,
        lower_case=config.do_lower_case,
        config_overrides=config.config_kwargs or config.config_args or {},
        prompts=general.prompts or {},
        default_prompt_name=general.default_prompt_name,
    )


def _wanted(chain: ChainSpec) -> Wanted:
    if isinstance(chain.pooling, SpladeSpec):
        return SPLADE
    return SCORES if isinstance(chain.pooling, ClassifierSpec) else DENSE


def _check_output(config: TransformerConfig, name: str, wanted: Wanted) -> None:
    """Hold what the files want of the transformer against what stands behind it."""
    task = config.transformer_task or wanted.task
    if task != wanted.task:
        raise ModelUnavailable(
            f"{name} has transformer_task {task!r}; {wanted.pooling} goes with {wanted.task!r}"
        )
    if config.modality_config is None:
        return
    text = config.modality_config.get("text")
    found = None if text is None else (text.method, text.method_output_name)
    if found != ("forward", wanted.output) or config.module_output_name != wanted.name:
        raise ModelUnavailable(
            f"{name} does not take {wanted.name} from the {wanted.output} of forward for text,"
            " which is all that is supported"
        )
