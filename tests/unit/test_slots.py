# SPDX-License-Identifier: Apache-2.0
"""Weights are found wherever modules keep them, each once, and fill one block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from appliance.engine.blocks import ALIGNMENT, Layout
from appliance.engine.prepack import PrepackedLinear, can_prepack
from appliance.engine.slots import Slot, bits, find_weights


class Keeper(nn.Module):
    """Keeps tensors in all the ways there are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6), requires_grad=False)
        self.register_buffer("scale", torch.tensor(3.5, dtype=torch.float64))
        self.plain = torch.arange(7, dtype=torch.int8)
        self.several = [torch.ones(2, dtype=torch.bfloat16), {"angles": torch.randn(3)}]
        self.transposed = torch.randn(5, 3).T
        self.stepped = torch.randn(4, 10)[:, ::2]
        self.nothing = torch.empty(0)
        self.number = 3


def moved_away(slots: list[Slot]) -> list[torch.Tensor]:
    """Copies of all weights, which are dropped."""
    kept = [slot.read().clone() for slot in slots]
    for slot in slots:
        slot.drop()
    return kept


def test_all_kinds_of_places_are_found_and_filled_again() -> None:
    keeper = Keeper()
    slots = find_weights(keeper)
    names = {slot.name.lstrip(".") for slot in slots}
    assert names == {
        "weight", "scale", "plain", "several.0", "several.1.angles", "transposed", "stepped",
    }  # fmt: skip
    assert sum(slot.nbytes for slot in slots) == 4 * 24 + 8 + 7 + 4 + 12 + 4 * 15 + 4 * 20
    expected = {name: tensor.clone() for name, tensor in vars_of(keeper).items()}
    strides = {name: tensor.stride() for name, tensor in vars_of(keeper).items()}
    weight = keeper.weight
    kept = moved_away(slots)
    assert not any(tensor.numel() for tensor in vars_of(keeper).values())
    for slot, tensor in zip(slots, kept, strict=True):
        slot.fill(tensor)
    for name, tensor in vars_of(keeper).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)
    assert keeper.weight is weight  # whoever holds it finds the weights in it
    assert isinstance(keeper.weight, nn.Parameter)
    assert vars_of(keeper)["transposed"].stride() == strides["transposed"]


def vars_of(keeper: Keeper) -> dict[str, torch.Tensor]:
    several: Any = keeper.several
    return {
        "weight": keeper.weight,
        "scale": keeper.scale,  # type: ignore[dict-item]
        "plain": keeper.plain,
        "several.0": several[0],
        "several.1.angles": several[1]["angles"],
        "transposed": keeper.transposed,
        "stepped": keeper.stepped,
    }


def test_tensors_that_share_memory_are_one_slot_and_share_it_again() -> None:
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    alias = nn.Module()
    alias.view = first.weight.detach()
    whole = nn.Sequential(first, second, alias).requires_grad_(False)
    (slot,) = find_weights(whole, first)
    (kept,) = moved_away([slot])
    slot.fill(kept)
    tensors = (first.weight, second.weight, alias.view)
    assert {tensor.data_ptr() for tensor in tensors} == {kept.data_ptr()}


def test_what_cannot_be_moved_stays() -> None:
    module = nn.Module()
    module.repeated = torch.ones(1, 3).expand(4, 3)
    module.elsewhere = torch.empty(3, device="meta")
    with torch.inference_mode():
        module.cached = torch.ones(3)
    assert find_weights(module) == []


def test_scales_that_were_made_while_inferring_can_be_moved() -> None:
    class QuantState:
        def __init__(self) -> None:
            self.absmax = torch.ones(3)
            self.state2: QuantState | None = None

    QuantState.__module__ = "bitsandbytes.functional"
    module = nn.Linear(2, 2, bias=False).requires_grad_(False)
    with torch.inference_mode():
        state = QuantState()
        state.state2 = QuantState()
    module.weight.quant_state = state  # type: ignore[attr-defined]
    slots = find_weights(module)
    assert len(slots) == 3
    assert not state.absmax.is_inference()
    moved_away(slots)
    assert state.absmax.numel() == state.state2.absmax.numel() == 0


def test_memory_that_was_aligned_is_aligned_again() -> None:
    module = nn.Linear(16, 16, bias=False).requires_grad_(False)
    (slot,) = find_weights(module)
    expected = module.weight.clone()
    askew = torch.cat((torch.zeros(1), expected.flatten()))[1:].view(16, 16)
    assert askew.data_ptr() % 64
    slot.fill(askew)
    assert module.weight.data_ptr() % 64 == 0
    torch.testing.assert_close(module.weight.detach(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prepacked_layer_is_packed_again_bit_for_bit(dtype: torch.dtype) -> None:
    if not can_prepack(dtype):
        pytest.skip("this CPU has no such layers")
    linear = nn.Linear(48, 80, dtype=dtype).requires_grad_(False)
    layer = PrepackedLinear(linear, 64)
    rows = torch.randn(9, 48, dtype=dtype)
    expected = layer(rows)
    slots = find_weights(nn.Sequential(layer))
    assert {slot.name for slot in slots} == {"0.weight", "0.bias"}
    kept = moved_away(slots)
    assert torch.equal(kept[-1], linear.weight)
    assert layer._weight.numel() == 0
    for slot, tensor in zip(slots, kept, strict=True):
        slot.fill(tensor)
    torch.testing.assert_close(layer(rows), expected, rtol=0, atol=0)


def test_a_block_holds_tensors_of_all_formats() -> None:
    module = Keeper()
    slots = find_weights(module)
    layout = Layout(slots)
    assert all(offset % ALIGNMENT == 0 for offset in layout.offsets)
    assert layout.nbytes % ALIGNMENT == 0
    block = torch.full((layout.nbytes,), 255, dtype=torch.uint8)
    for slot, view in zip(slots, layout.cut(block), strict=True):
        view.copy_(slot.read())
    for slot, view in zip(slots, layout.cut(block.clone()), strict=True):
        assert (view.dtype, view.shape) == (slot.dtype, slot.shape)
        assert torch.equal(bits(view), bits(slot.read()))
    assert Layout([]).nbytes == 0
