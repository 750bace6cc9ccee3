# SPDX-License-Identifier: Apache-2.0
"""Which of transformers' classes a model is loaded as."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    PretrainedConfig,
)

from appliance.engine.modules import ClassifierSpec, SpladeSpec
from appliance.engine.registry import ModelSpec
from appliance.engine.remote_code import told
from appliance.errors import ModelUnavailable

__all__ = ["choose_architecture", "read_config"]


def read_config(spec: ModelSpec, *, trust_remote_code: bool) -> PretrainedConfig:
    """Read a transformer's ``config.json``.

    Args:
        spec: What the model's files say.
        trust_remote_code: Whether code that comes with the model may be run.

    Raises:
        ModelUnavailable: It is missing or broken.
    """
    try:
        arguments = {
            **spec.config_overrides,
            "local_files_only": True,
            "trust_remote_code": trust_remote_code,
        }
        config: PretrainedConfig = AutoConfig.from_pretrained(spec.chain.transformer, **arguments)
    except Exception as error:  # broken files surface as any kind of error
        raise ModelUnavailable(f"its config.json cannot be read: {told(error)}") from error
    return config


def choose_architecture(config: PretrainedConfig, spec: ModelSpec) -> Any:
    """One of transformers' auto classes.

    Raises:
        ModelUnavailable: SPLADE is wanted of a model without a head for it.
    """
    if isinstance(spec.chain.pooling, SpladeSpec):
        names = config.architectures or ["ForMaskedLM"]  # if unsaid, its weights will tell
        if not any("ForMaskedLM" in name for name in names):
            raise ModelUnavailable(
                f"SPLADE needs a ForMaskedLM model, but config.json says architectures {names}"
            )
        return AutoModelForMaskedLM
    if isinstance(spec.chain.pooling, ClassifierSpec):
        return AutoModelForSequenceClassification
    # For models of two halves, such as T5, the half that reads.
    encoders = AutoModelForTextEncoding._model_mapping
    return AutoModelForTextEncoding if type(config) in encoders else AutoModel
