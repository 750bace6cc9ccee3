# SPDX-License-Identifier: Apache-2.0
"""What batches take of a device is estimated, then measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from appliance.engine import scratch
from appliance.engine.backend import DeviceOutOfMemory
from appliance.engine.scratch import Moves, Scratch, telling_out_of_memory

CUDA = torch.device("cuda", 0)


class Memory:
    """A pretended device's counters."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken = 1000
        self.peak = 0
        self.resets = 0
        monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", self._reset)
        monkeypatch.setattr("torch.cuda.memory_allocated", lambda _: self.taken)
        monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda _: self.peak)

    def _reset(self, _: torch.device) -> None:
        self.resets += 1
        self.peak = self.taken


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    return Memory(monkeypatch)


def of(device: torch.device, **config: int) -> Scratch:
    model: Any = SimpleNamespace(
        dtype=torch.bfloat16,
        config=SimpleNamespace(**config),
        get_input_embeddings=lambda: SimpleNamespace(embedding_dim=16),
    )
    return Scratch(device, model, more=0)


def run(counted: Scratch, memory: Memory, tokens: int, peak: int) -> None:
    with counted.measuring(tokens):
        memory.peak = memory.taken + peak


def test_nothing_is_counted_on_a_cpu() -> None:
    counted = of(torch.device("cpu"))
    counted.expect(1024)
    with counted.measuring(100):
        pass
    assert counted.nbytes == 0


def test_it_is_estimated_by_the_widths_of_the_layers() -> None:
    small, large = of(CUDA, hidden_size=32), of(CUDA, hidden_size=32, intermediate_size=1000)
    bare = of(CUDA)
    for counted in (small, large, bare):
        counted.expect(100)
    assert 0 < bare.nbytes < small.nbytes < large.nbytes
    assert large.nbytes == 100 * (8 * 32 + 3 * 1000) * 2


def test_it_is_corrected_by_what_a_large_batch_took(memory: Memory) -> None:
    counted = of(CUDA)
    counted.expect(1000)
    run(counted, memory, tokens=500, peak=6000)
    assert counted.nbytes == 12_000
    run(counted, memory, tokens=1000, peak=11_000)
    assert counted.nbytes == 11_000


def test_a_small_batch_says_only_how_much_it_takes_at_least(memory: Memory) -> None:
    counted = of(CUDA)
    counted.expect(1000)
    estimated = counted.nbytes
    run(counted, memory, tokens=10, peak=estimated // 2)
    assert counted.nbytes == estimated
    run(counted, memory, tokens=20, peak=2 * estimated)
    assert counted.nbytes == 2 * estimated


def test_only_batches_larger_than_all_before_are_measured(memory: Memory) -> None:
    counted = of(CUDA)
    counted.expect(1000)
    for tokens in (100, 100, 50, 200):
        run(counted, memory, tokens, peak=10)
    assert memory.resets == 2


def test_what_a_move_takes_meanwhile_is_not_counted(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves = Moves()
    monkeypatch.setattr(scratch, "MOVES", moves)
    counted = of(CUDA)
    counted.expect(1000)
    with counted.measuring(500):
        with moves.one():
            pass
        memory.peak = memory.taken + 10**9
    with moves.one():
        run(counted, memory, tokens=500, peak=10**9)
    assert counted.nbytes < 10**9
    run(counted, memory, tokens=500, peak=100)
    assert counted.nbytes == 200


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] can't allocate memory: you tried")]
)
def test_each_error_for_want_of_memory_is_the_same_one(error: Exception) -> None:
    with pytest.raises(DeviceOutOfMemory), telling_out_of_memory():
        raise error


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes"), telling_out_of_memory():
        raise RuntimeError("shapes do not match")
