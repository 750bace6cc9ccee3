# SPDX-License-Identifier: Apache-2.0
"""What a model will take is known before it is loaded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForTextEncoding,
    BertConfig,
    BertModel,
    T5Config,
    T5EncoderModel,
)

from appliance.engine.backend import Room
from appliance.engine.loading import prepare_model
from appliance.engine.measuring import weights_of_config
from appliance.settings import ModelSettings, Settings

REAL = "embedded:all-MiniLM-L6-v2"
ROOMS = {"cpu": Room(2**40)}


@pytest.mark.parametrize(
    "options",
    [{}, {"dtype": "bfloat16"}, {"dtype": "bfloat16", "quantization": "int8"}],
    ids=str,
)
def test_the_estimate_is_close_to_what_is_loaded(options: dict[str, Any]) -> None:
    prepared = prepare_model(Settings(), ModelSettings(model=REAL, **options), ROOMS)
    assert prepared.devices == ["cpu"]
    (expected,) = prepared.sizes
    backend = prepared.load(0)
    backend.warm_up(64)
    assert sum(backend.sizes.values()) == pytest.approx(expected["cpu"], rel=0.05)
    backend.close()


def test_a_model_of_two_halves_is_measured_by_the_one_that_is_loaded() -> None:
    config = T5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    encoder = T5EncoderModel(config)
    measured = weights_of_config(AutoModelForTextEncoding, config, torch.float32, "none")
    assert measured == sum(t.nbytes for t in (*encoder.parameters(), *encoder.buffers()))


def test_nothing_is_allocated_for_it() -> None:
    config = BertConfig(
        hidden_size=65536, num_attention_heads=64, num_hidden_layers=96, intermediate_size=262144
    )
    measured = weights_of_config(AutoModel, config, torch.float16, "none")
    assert measured is not None
    assert measured > 2**42  # a hundred times this machine's memory


def test_what_cannot_be_built_is_measured_by_its_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("this model reads a weight while it is built")

    monkeypatch.setattr(BertModel, "__init__", fail)
    (size,) = prepare_model(Settings(), ModelSettings(model=REAL), ROOMS).sizes
    assert size["cpu"] == pytest.approx(4 * 22_713_728, rel=0.01)
