# SPDX-License-Identifier: Apache-2.0
"""The ways to load a model: number formats, fewer bits, and weights that do not fit."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig

from appliance.engine.backend import Room
from appliance.engine.jobs import Batch
from appliance.engine.loading import load_model
from appliance.engine.model import TorchBackend
from appliance.engine.placement import Placement, choose_dtype, choose_placements, count_parameters
from appliance.engine.prepack import PrepackedLinear, can_prepack
from appliance.engine.sources import locate_model
from appliance.engine.types import FloatMatrix
from appliance.errors import ModelUnavailable
from appliance.settings import ModelSettings, Settings
from tests.parity.families import SIZES, Family, _config
from tests.parity.reference import cosines
from tests.parity.tiny import build
from tests.parity.vocabularies import WORDPIECE

REAL = "embedded:all-MiniLM-L6-v2"
PARAMETERS = 22_713_728
CPU = torch.device("cpu")
TEXTS = (
    "A cat sat on the mat and watched the rain.",
    "Returns are accepted within thirty days if the goods are unused and in their own packaging.",
    "x",
    "Der Zug nach Basel fährt heute von Gleis sieben. " * 8,
)


def load(model: str = REAL, **options: Any) -> TorchBackend:
    (backend,) = load_model(Settings(), ModelSettings(model=model, name="m", **options))
    backend.warm_up(512)
    return backend


def embed(backend: TorchBackend) -> FloatMatrix:
    return backend.forward(Batch.pack(backend.tokenizer.encode(list(TEXTS))))


@pytest.fixture(scope="module")
def exact() -> FloatMatrix:
    return embed(load())


@pytest.fixture(scope="module")
def folder() -> Path:
    return locate_model(REAL, revision=None, token=None, cache=None)


def least_cosine(found: FloatMatrix, expected: FloatMatrix) -> float:
    return float(cosines(found, expected).min())


@pytest.mark.parametrize(
    ("quantization", "least", "bytes_of_a_weight"),
    [("int8", 0.99, 1), ("nf4", 0.93, 0.5), ("fp4", 0.85, 0.5)],
)
def test_fewer_bits_keep_the_direction_and_tell_how_well(
    quantization: str,
    least: float,
    bytes_of_a_weight: float,
    exact: FloatMatrix,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "appliance"):
        backend = load(quantization=quantization)
    assert backend.transformer.dtype == torch.bfloat16
    assert backend.transformer.packed
    layer: Any = backend.transformer.module.encoder.layer[0].intermediate.dense
    weight = layer.weight
    assert weight.nbytes == 384 * 1536 * bytes_of_a_weight
    cosine = least_cosine(embed(backend), exact)
    assert least <= cosine < 0.9999
    assert backend.fidelity is not None
    assert backend.fidelity == pytest.approx(cosine, abs=0.1)
    assert [r for r in caplog.records if f"{quantization} weights; cosine" in r.message]


def test_a_model_too_large_to_compare_is_loaded_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("appliance.engine.fidelity.MOST_OF_FREE_MEMORY", 0.0)
    with caplog.at_level(logging.INFO, "appliance"):
        assert load(quantization="nf4").fidelity is None
    assert [r for r in caplog.records if "was not measured" in r.message]


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_quantised_model_can_be_computed_in_float32(
    quantization: str, exact: FloatMatrix
) -> None:
    backend = load(quantization=quantization)
    batch = Batch.pack(backend.tokenizer.encode(list(TEXTS)))
    assert least_cosine(backend.forward_in_float32(batch), embed(backend)) >= 0.99


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_for_which_there_is_no_room_are_streamed_from_disk(
    dtype: str, exact: FloatMatrix, tmp_path: Path
) -> None:
    settings = Settings(swap_dir=tmp_path)
    model = ModelSettings(model=REAL, name="m", max_memory={"cpu": "1MB"}, dtype=dtype)
    (backend,) = load_model(settings, model)
    backend.warm_up(512)
    assert backend.runs_alone
    assert not backend.can_park
    assert sum(backend.sizes.values()) <= 10**6
    assert not backend.is_half_precision  # there is no second way to compute it
    assert next(backend.transformer.module.parameters()).device.type == "meta"
    assert backend.transformer.packed
    assert backend.device_name == "cpu"
    found = embed(backend)
    if dtype == "float32":
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-5)
    else:
        assert least_cosine(found, exact) >= 0.9995
    (spill,) = tmp_path.glob("appliance-*")
    backend.close()
    assert not spill.exists()


def test_balanced_without_accelerators_is_the_cpu(exact: FloatMatrix) -> None:
    backend = load(device_map="balanced")
    assert (backend.device_name, backend.runs_alone) == ("cpu", False)
    np.testing.assert_allclose(embed(backend), exact, rtol=0, atol=1e-5)


def test_numbers_that_overflow_in_half_precision_are_right_in_float32(
    folder: Path, tmp_path: Path
) -> None:
    """One layer's rows are made huge, and the next layer's columns small by the same factor."""
    model = shutil.copytree(folder, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    for name in ("intermediate.dense.weight", "intermediate.dense.bias"):
        weights[f"encoder.layer.2.{name}"] *= 3e4
    weights["encoder.layer.2.output.dense.weight"] /= 3e4
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    expected = embed(load(str(model)))
    backend = load(str(model), dtype="float16")
    assert backend.is_half_precision
    assert not np.isfinite(embed(backend)).all()
    batch = Batch.pack(backend.tokenizer.encode(list(TEXTS)))
    assert least_cosine(backend.forward_in_float32(batch), expected) >= 0.9999


def test_bfloat16_is_computed_once_more_with_its_own_weights(exact: FloatMatrix) -> None:
    backend = load(dtype="bfloat16")
    assert backend.transformer.prepacked == can_prepack(torch.bfloat16)
    batch = Batch.pack(backend.tokenizer.encode(list(TEXTS)))
    assert least_cosine(backend.forward_in_float32(batch), exact) >= 0.9999
    assert backend.transformer.dtype == torch.bfloat16


def test_a_gelu_is_taken_into_the_layer_before_it(exact: FloatMatrix) -> None:
    if not can_prepack(torch.float32):
        pytest.skip("this build of torch has no such layers")
    backend = load()
    layer: Any = backend.transformer.module.encoder.layer[0].intermediate
    assert isinstance(layer.dense, PrepackedLinear)
    assert isinstance(layer.intermediate_act_fn, torch.nn.Identity)
    rows = torch.randn(5, 384)
    with torch.inference_mode():
        torch.testing.assert_close(layer(rows), layer.dense.plain()(rows), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_vectors(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if shutil.which("c++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    # The real model's six layers take six times as long to compile and show no more than one.
    sizes = {**SIZES, "num_hidden_layers": 1, "max_position_embeddings": 1024}
    model = str(build(tmp_path, Family(_config(BertConfig, **sizes), WORDPIECE), longest=1024))
    exact = embed(load(model))
    with caplog.at_level(logging.INFO, "appliance"):
        backend = load(model, compile=True)
    assert backend.transformer.compiled
    assert backend.transformer.packed
    assert not backend.transformer.prepacked
    assert "compiled" in caplog.text
    torch._dynamo.config.error_on_recompile = True
    try:
        np.testing.assert_allclose(embed(backend), exact, rtol=0, atol=1e-5)
        alone = [backend.forward(Batch.pack(backend.tokenizer.encode([text]))) for text in TEXTS]
        np.testing.assert_allclose(np.concatenate(alone), exact, rtol=0, atol=1e-5)
    finally:
        torch._dynamo.config.error_on_recompile = False


def test_a_model_that_cannot_be_compiled_runs_without(
    exact: FloatMatrix, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_compiler(*_: Any, **__: Any) -> Any:
        def run(**_: Any) -> Any:
            raise RuntimeError("no C++ compiler")

        return run

    monkeypatch.setattr("torch.compile", no_compiler)
    backend = load(compile=True)
    assert not backend.transformer.compiled
    assert backend.transformer.prepacked == can_prepack(torch.float32)
    assert "runs without" in caplog.text
    np.testing.assert_allclose(embed(backend), exact, rtol=0, atol=1e-5)


class RunsCode:
    """What a malicious file of weights holds."""

    def __init__(self, proof: Path) -> None:
        self._proof = proof

    def __reduce__(self) -> Any:
        return Path.touch, (self._proof,)


def without_safetensors(folder: Path, to: Path, weights: object = None) -> Path:
    """A copy of a model whose weights are in PyTorch's older format."""
    model = shutil.copytree(folder, to)
    weights = weights or load_file(model / "model.safetensors")
    torch.save(weights, model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    return model


def test_weights_in_the_older_format_are_read_only_where_allowed(
    folder: Path, tmp_path: Path, exact: FloatMatrix
) -> None:
    model = str(without_safetensors(folder, tmp_path / "model"))
    with pytest.raises(ModelUnavailable, match="set pickle_weights to true"):
        load(model)
    np.testing.assert_allclose(embed(load(model, pickle_weights=True)), exact, rtol=0, atol=1e-5)


def test_weights_that_would_run_code_are_refused_and_do_not(folder: Path, tmp_path: Path) -> None:
    proof = tmp_path / "it ran"
    model = without_safetensors(folder, tmp_path / "model", {"weight": RunsCode(proof)})
    with pytest.raises(ModelUnavailable, match="it cannot be loaded"):
        load(str(model), pickle_weights=True)
    assert not proof.exists()


@pytest.mark.parametrize("has_instructions", [True, False])
def test_auto_fast_is_bfloat16_where_the_cpu_is_good_at_it(
    has_instructions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: has_instructions)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    fast = torch.bfloat16 if has_instructions else torch.float32
    assert choose_dtype("auto_fast", "none", CPU) == fast
    assert choose_dtype("auto", "none", CPU) == torch.float32


def test_parameters_are_counted_without_reading_them(folder: Path) -> None:
    assert count_parameters(folder) == PARAMETERS


def rooms(*capacities: int, used: Sequence[int] = ()) -> dict[str, Room]:
    """A machine with accelerators of so many bytes, of which some are taken."""
    taken = [*used, *[0] * len(capacities)]
    named = {f"cuda:{n}": Room(size, taken[n]) for n, size in enumerate(capacities)}
    return {**named, "cpu": Room(5000)}


def places(machine: Mapping[str, Room], weight_bytes: int = 100, **options: Any) -> list[Placement]:
    return choose_placements(ModelSettings(model="m", **options), weight_bytes, machine)


def cuda(number: int) -> torch.device:
    return torch.device("cuda", number)


def whole(number: int, weight_bytes: int = 100) -> Placement:
    return Placement({"": cuda(number)}, cuda(number), {f"cuda:{number}": weight_bytes})


def test_auto_is_the_accelerator_with_the_most_room() -> None:
    assert places(rooms(1000, 3000, 2000)) == [whole(1)]
    assert places(rooms(1000, 3000, 2000, used=(0, 2500, 0))) == [whole(2)]


def test_what_others_take_of_an_accelerator_can_be_had_from_them() -> None:
    assert places(rooms(1000, 3000, used=(100, 2900)), 2000) == [whole(1, 2000)]


def test_without_accelerators_it_is_the_cpu() -> None:
    assert places(rooms()) == [Placement({"": CPU}, CPU, {"cpu": 100})]


def test_a_model_too_large_for_any_one_is_shared_out(caplog: pytest.LogCaptureFixture) -> None:
    (place,) = places(rooms(1000, 3000), 2800)
    assert (place.device_map, place.device) == ("auto", cuda(0))
    assert place.sizes == {"cuda:0": 900, "cuda:1": 1900}
    assert place.max_memory == {0: 900, 1: 2700, "cpu": 4500}
    assert "do not fit on one device" in caplog.text


def test_a_model_too_large_for_ram_is_streamed_from_disk() -> None:
    (place,) = places({"cpu": Room(1000)}, 2800)
    assert (place.device_map, place.device) == ("auto", CPU)
    assert (place.sizes, place.max_memory) == ({"cpu": 900}, {"cpu": 900})


def test_copies_go_to_the_accelerators_with_the_most_room() -> None:
    assert places(rooms(1000, 3000, 2000), replicas=2) == [whole(1), whole(2)]


def test_more_copies_than_accelerators_are_refused() -> None:
    with pytest.raises(ModelUnavailable, match="replicas is 2, but this machine has 1 CUDA"):
        places(rooms(1000), replicas=2)


def test_memory_is_bounded_by_device() -> None:
    limits = {"cuda:1": "1KB", "cpu": "64 GB"}
    (place,) = places(rooms(3000, 3000), 4000, max_memory=limits, device_map="balanced")
    assert (place.device_map, place.device) == ("balanced", cuda(0))
    assert place.max_memory == {1: 1000, "cpu": 4500}
    assert place.sizes == {"cuda:1": 1000}


def test_a_named_accelerator_that_is_not_there_is_refused() -> None:
    machine = rooms(1000, 1000)
    assert places(machine, device_map="cuda:1") == [whole(1)]
    assert places(machine, device_map="cuda") == [whole(0)]
    with pytest.raises(ModelUnavailable, match="has 2 CUDA devices"):
        places(machine, device_map="cuda:2")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"max_memory": {"cpu": "1GB"}, "device_map": "cpu"}, "device_map puts it on 'cpu'"),
        ({"max_memory": {"gpu": "1GB"}}, "max_memory names 'gpu'"),
        ({"max_memory": {"cpu": "plenty"}}, "pattern"),
        ({"replicas": 2, "device_map": "cuda:0"}, "replicas puts one whole copy"),
        ({"replicas": 2, "max_memory": {"cpu": "1GB"}}, "replicas puts one whole copy"),
        ({"device_map": "tpu"}, "pattern"),
    ],
)
def test_impossible_combinations_are_refused_at_the_start(
    options: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        ModelSettings(model="m", **options)
