# SPDX-License-Identifier: Apache-2.0
"""Weights that were put away come back bit for bit, or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from appliance.engine.backend import Parking, ParkingFailed
from appliance.engine.jobs import Batch
from appliance.engine.prepack import PrepackedLinear, can_prepack
from appliance.engine.slots import _TensorSlot, find_weights
from tests.parity.parked import (
    IN_OWN_FILES,
    KINDS,
    MIB,
    WRITTEN_WHOLE,
    Kinds,
    Pretended,
    disk,
    files,
    pretend,
)
from tests.parity.reference import REAL, TEXTS, ours, warmed


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_the_same_after_a_way_to_the_disk_and_back(
    kind: str, kinds: Kinds, swap: Path
) -> None:
    backend = kinds.load(kind)
    expected = ours(backend)
    assert backend.can_park
    for _ in range(3):
        backend.park(disk(swap))
        with pytest.raises(RuntimeError, match="put away"):
            ours(backend)
        backend.restore()
        np.testing.assert_array_equal(ours(backend), expected)
    written = sum(file.stat().st_size for file in files(swap))
    assert backend.parked_bytes == {"disk": written}
    assert (written == 0) == (kind in IN_OWN_FILES)
    if kind in WRITTEN_WHOLE:
        assert written >= sum(backend.sizes.values())


@pytest.mark.parametrize("keep_bytes", [0, 300])
@pytest.mark.parametrize("tier", ["host", "disk"])
@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_the_same_after_a_way_from_a_device_and_back(
    kind: str, tier: Any, keep_bytes: int, kinds: Kinds, swap: Path
) -> None:
    backend = kinds.load(kind)
    expected = ours(backend)
    link = Pretended()
    weights = pretend(backend, link)
    for _ in range(2):
        weights.park(Parking(tier, swap, keep_bytes))
        weights.restore()
        np.testing.assert_array_equal(ours(backend), expected)
    assert link.given_back == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_parked_model_holds_no_weights(kind: str, kinds: Kinds, swap: Path) -> None:
    backend = kinds.load(kind)
    backend.park(disk(swap))
    slots = find_weights(backend.transformer.module, backend._chain)
    plain = [slot for slot in slots if isinstance(slot, _TensorSlot)]
    assert sum(slot.nbytes for slot in plain) < 0.01 * sum(backend.sizes.values())
    layers = [m for m in backend.transformer.module.modules() if isinstance(m, PrepackedLinear)]
    assert not any(layer._weight.numel() for layer in layers)


def test_sizes_count_each_weight_once(real_folder: Path, kinds: Kinds, swap: Path) -> None:
    backend = kinds.load("real")
    held = sum(tensor.nbytes for tensor in load_file(real_folder / "model.safetensors").values())
    assert list(backend.sizes) == ["cpu"]
    assert backend.sizes["cpu"] == pytest.approx(held, rel=0.01)  # its pooler is not loaded
    before = backend.sizes
    backend.park(disk(swap))
    assert backend.sizes == before


def test_what_is_kept_is_told(kinds: Kinds) -> None:
    backend = kinds.load("decoder")
    assert backend.kept(0) == {}
    assert backend.kept(10**9) == backend.sizes
    assert 0 < backend.kept(300)["cpu"] < backend.sizes["cpu"]


def test_tied_weights_are_shared_when_they_are_back(kinds: Kinds, swap: Path) -> None:
    backend = kinds.load("splade")
    head: Any = backend._chain._pooling
    model: Any = backend.transformer.module

    def addresses() -> set[int]:
        table = model.embeddings.word_embeddings.weight
        return {table.data_ptr(), head.head.cls.predictions.decoder.weight.data_ptr()}

    assert len(addresses()) == 1
    backend.park(disk(swap))
    backend.restore()
    assert len(addresses()) == 1


def test_float32_is_still_the_way_out_after_a_way_to_the_disk(kinds: Kinds, swap: Path) -> None:
    for kind in ("real-bfloat16", "int8", "nf4", "heads-behind-bfloat16"):
        backend = kinds.load(kind)
        batch = Batch.pack(backend.tokenizer.encode(list(TEXTS[:3])))
        expected = backend.forward_in_float32(batch)
        backend.park(disk(swap))
        backend.restore()
        np.testing.assert_array_equal(backend.forward_in_float32(batch), expected)


def test_weights_of_the_models_own_files_are_mapped_and_not_copied(
    kinds: Kinds, real_folder: Path, swap: Path
) -> None:
    backend = kinds.load("real")
    assert backend.transformer.prepacked == can_prepack(torch.float32)
    backend.park(disk(swap))
    own_file = str(real_folder / "model.safetensors")
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert own_file not in maps.read_text()
    backend.restore()
    assert files(swap) == []
    if maps.exists():
        assert own_file in maps.read_text()


MEASURED = """
import sys, psutil, torch
from pathlib import Path
from appliance.engine.backend import Parking
from appliance.engine.scratch import return_free_memory
from tests.parity.reference import ours, warmed

torch.set_num_threads(1)
model, dtype, options, folder, rounds = sys.argv[1:]
backend = warmed(model, dtype, **({"quantization": options} if options else {}))
parking = Parking("disk", Path(folder))
for tensor in backend.transformer.module.parameters():
    tensor.view(-1)[::64].sum()  # what was never looked at is not in memory yet

def resident():
    return psutil.Process().memory_info().rss

return_free_memory()  # what loading has left
print(backend.sizes["cpu"], resident())
backend.park(parking)
print(resident())
backend.restore()
for count in range(int(rounds)):
    if count == int(rounds) // 4:
        ours(backend)
        print(resident())
    backend.park(parking)
    backend.restore()
ours(backend)
print(resident())
backend.close()
print(resident())
"""


@pytest.mark.parametrize(
    "kind",
    [
        ("float32", ""),
        pytest.param(("bfloat16", ""), marks=pytest.mark.slow),
        pytest.param(("bfloat16", "int8"), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_memory_goes_back_to_the_system_and_does_not_grow(
    kind: tuple[str, str], swap: Path
) -> None:
    command = [sys.executable, "-c", MEASURED, REAL, *kind, str(swap), "20"]
    output = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    weights, loaded, parked, early, late, closed = map(int, output.split())
    assert loaded - parked >= 0.8 * weights
    assert late - early < 0.1 * weights
    assert late - closed >= 0.4 * weights  # the part that a forward pass looks at
    assert files(swap) == []


def test_a_model_on_the_cpu_has_nothing_to_put_into_ram(kinds: Kinds) -> None:
    backend = kinds.load("decoder")
    with pytest.raises(ParkingFailed, match="in the host's RAM already"):
        backend.park(Parking("host"))
    assert np.isfinite(ours(backend)).all()
    assert backend.scratch_bytes == 0


def test_streamed_models_and_compiled_ones_can_only_be_loaded_anew(
    kinds: Kinds, monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed = warmed(REAL, max_memory={"cpu": "1MB"}, device_map="auto")
    assert not streamed.can_park
    assert streamed.sizes["cpu"] < 20 * MIB
    streamed.close()
    compiled = kinds.load("decoder")
    monkeypatch.setattr(compiled.transformer, "compiled", True)
    assert not compiled.can_park
    compiled.close()


def test_the_copy_in_ram_is_kept_and_goes_with_the_model(kinds: Kinds) -> None:
    backend = kinds.load("real")
    link = Pretended()
    weights = pretend(backend, link)
    weights.park(Parking("host"))
    (address,) = link.locked_blocks
    block = weights.parked_bytes["host"]
    assert sum(weights.sizes.values()) <= block < 1.01 * sum(weights.sizes.values())
    weights.restore()
    weights.park(Parking("host"))
    assert link.locked_blocks == [address]
    assert len(link.queued) == 2  # there once, and back
    weights.restore()
    backend.close()
    assert link.locked_blocks == []
    assert weights.parked_bytes == {}


def test_pages_that_cannot_be_locked_are_had_another_way(kinds: Kinds) -> None:
    backend = kinds.load("decoder")
    expected = ours(backend)
    weights = pretend(backend, Pretended(locks=False))
    weights.park(Parking("host"))
    weights.restore()
    np.testing.assert_array_equal(ours(backend), expected)


def test_parking_and_restoring_twice_does_nothing_more(kinds: Kinds, swap: Path) -> None:
    backend = kinds.load("decoder")
    expected = ours(backend)
    backend.restore()
    backend.park(disk(swap))
    backend.park(disk(swap))
    backend.restore()
    backend.restore()
    np.testing.assert_array_equal(ours(backend), expected)
    backend.close()
    backend.close()
