# SPDX-License-Identifier: Apache-2.0
"""The ways to load a model: number formats, fewer bits, and weights that do not fit."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from appliance.engine.loading import load_model
from appliance.engine.model import TorchBackend
from appliance.engine.placement import Placement, choose_dtype, choose_placements, count_parameters
from appliance.engine.prepack import PrepackedLinear, can_prepack
from appliance.engine.sources import locate_model
from appliance.engine.types import Batch, FloatMatrix
from appliance.errors import ModelUnavailable
from appliance.settings import ModelSettings, Settings
from tests.parity.reference import cosines

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
    dtype: str, exact: FloatMatrix
) -> None:
    backend = load(max_memory={"cpu": "1MB"}, dtype=dtype)
    assert backend.runs_alone
    assert not backend.is_half_precision  # there is no second way to compute it
    assert next(backend.transformer.module.parameters()).device.type == "meta"
    assert backend.transformer.packed
    assert backend.device_name == "cpu"
    found = embed(backend)
    if dtype == "float32":
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-5)
    else:
        assert least_cosine(found, exact) >= 0.9995


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
    assert backend.transformer.prepacked == can_prepack()
    batch = Batch.pack(backend.tokenizer.encode(list(TEXTS)))
    assert least_cosine(backend.forward_in_float32(batch), exact) >= 0.9999
    assert backend.transformer.dtype == torch.bfloat16


def test_a_gelu_is_taken_into_the_layer_before_it(exact: FloatMatrix) -> None:
    if not can_prepack():
        pytest.skip("this build of torch has no such layers")
    backend = load()
    layer: Any = backend.transformer.module.encoder.layer[0].intermediate
    assert isinstance(layer.dense, PrepackedLinear)
    assert isinstance(layer.intermediate_act_fn, torch.nn.Identity)
    rows = torch.randn(5, 384)
    with torch.inference_mode():
        torch.testing.assert_close(layer(rows), layer.dense.plain()(rows), rtol=0, atol=1e-5)


def test_a_compiled_model_gives_the_same_vectors(
    exact: FloatMatrix, caplog: pytest.LogCaptureFixture
) -> None:
    if shutil.which("c++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    with caplog.at_level(logging.INFO, "appliance"):
        backend = load(compile=True)
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
    assert (backend.transformer.compiled, backend.transformer.prepacked) == (False, can_prepack())
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


class Accelerators:
    """Pretends that a machine has accelerators.

    Args:
        free: Free bytes of each.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *free: int) -> None:
        monkeypatch.setattr("torch.cuda.device_count", lambda: len(free))
        monkeypatch.setattr(
            "torch.cuda.mem_get_info", lambda device: (free[device.index], 2 * free[device.index])
        )


def places(weight_bytes: int = 100, **options: Any) -> list[Placement]:
    return choose_placements(ModelSettings(model="m", **options), weight_bytes)


def cuda(number: int) -> torch.device:
    return torch.device("cuda", number)


def test_auto_is_the_accelerator_with_the_most_room(monkeypatch: pytest.MonkeyPatch) -> None:
    Accelerators(monkeypatch, 1000, 3000, 2000)
    assert places() == [Placement({"": cuda(1)}, cuda(1))]


def test_a_model_too_large_for_any_one_is_shared_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Accelerators(monkeypatch, 1000, 3000)
    assert places(2800) == [Placement("auto", cuda(0))]
    assert "do not fit on one device" in caplog.text


def test_copies_go_to_the_accelerators_with_the_most_room(monkeypatch: pytest.MonkeyPatch) -> None:
    Accelerators(monkeypatch, 1000, 3000, 2000)
    assert [place.device for place in places(replicas=2)] == [cuda(1), cuda(2)]


def test_more_copies_than_accelerators_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Accelerators(monkeypatch, 1000)
    with pytest.raises(ModelUnavailable, match="replicas is 2, but this machine has 1 CUDA"):
        places(replicas=2)


def test_memory_is_bounded_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    Accelerators(monkeypatch, 1000, 1000)
    (place,) = places(max_memory={"cuda:1": "20GiB", "cpu": "64 GB"}, device_map="balanced")
    assert place == Placement("balanced", cuda(0), {1: "20GiB", "cpu": "64 GB"})


def test_a_named_accelerator_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Accelerators(monkeypatch, 1000, 1000)
    assert places(device_map="cuda:1")[0].device == cuda(1)
    assert places(device_map="cuda")[0].device == cuda(0)
    with pytest.raises(ModelUnavailable, match="has 2 CUDA devices"):
        places(device_map="cuda:2")


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
