# SPDX-License-Identifier: Apache-2.0
"""Weights are found in a model's own files by what they hold, whatever they are called."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from appliance.engine.own_files import OwnFiles

NUMBERS = torch.arange(12, dtype=torch.float32).view(3, 4)


def found(folder: Path, tensor: torch.Tensor, name: str = "layer.weight") -> str | None:
    (place,) = OwnFiles([folder]).find([name], [tensor])
    return None if place is None else place.key


def test_a_tensor_is_found_under_any_name(tmp_path: Path) -> None:
    save_file({"bert.other": NUMBERS + 1, "old.name": NUMBERS}, tmp_path / "model.safetensors")
    assert found(tmp_path, NUMBERS) == "old.name"


def test_the_likeliest_name_is_looked_at_first(tmp_path: Path) -> None:
    names = ("a.weight", "model.layers.1.weight", "layers.11.weight", "z.layers.1.bias")
    save_file({name: NUMBERS.clone() for name in names}, tmp_path / "model.safetensors")
    assert found(tmp_path, NUMBERS, "layers.1.weight") == "model.layers.1.weight"


@pytest.mark.parametrize(
    "other",
    [
        NUMBERS.double(),
        NUMBERS.view(4, 3),
        NUMBERS.view(torch.int32),
        torch.where(NUMBERS == 0, torch.tensor(-0.0), NUMBERS),
        torch.where(NUMBERS == 11, torch.tensor(10.999999), NUMBERS),
    ],
    ids=["dtype", "shape", "same bits, another dtype", "negative zero", "the last bit"],
)
def test_nothing_less_than_the_same_will_do(other: torch.Tensor, tmp_path: Path) -> None:
    save_file({"layer.weight": NUMBERS}, tmp_path / "model.safetensors")
    assert found(tmp_path, other) is None


def test_tensors_that_differ_late_are_told_apart(tmp_path: Path) -> None:
    long = torch.zeros(10_000)
    late = long.clone()
    late[-1] = 1
    save_file({"a.weight": late, "b.weight": long}, tmp_path / "model.safetensors")
    assert found(tmp_path, long) == "b.weight"


def test_numbers_that_are_none_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    save_file({"w": torch.tensor([float("nan"), 1])}, tmp_path / "model.safetensors")
    assert found(tmp_path, torch.tensor([float("nan"), 1])) == "w"


def test_several_files_and_folders_are_looked_through(tmp_path: Path) -> None:
    head = tmp_path / "2_Dense"
    head.mkdir()
    save_file({"a": NUMBERS}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b": NUMBERS + 1}, tmp_path / "model-00002-of-00002.safetensors")
    save_file({"c": NUMBERS + 2}, head / "model.safetensors")
    own = OwnFiles([tmp_path, head, head])
    places = own.find("xyz", [NUMBERS + 2, NUMBERS, NUMBERS + 3])
    assert [place and place.key for place in places] == ["c", "a", None]
    third, first = own.map(place for place in places if place)
    assert torch.equal(third, NUMBERS + 2)
    assert torch.equal(first, NUMBERS)


def test_files_of_other_kinds_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "b.safetensors").write_bytes(b"")
    (tmp_path / "c.safetensors").write_bytes((4).to_bytes(8, "little") + b"nope")
    save_file({"w": NUMBERS}, tmp_path / "model.safetensors")
    assert found(tmp_path, NUMBERS) == "w"
    assert found(tmp_path / "nowhere", NUMBERS) is None


def test_a_file_that_is_not_used_may_change(tmp_path: Path) -> None:
    save_file({"w": NUMBERS}, tmp_path / "model.safetensors")
    save_file({"v": NUMBERS + 1}, tmp_path / "other.safetensors")
    own = OwnFiles([tmp_path])
    (place,) = own.find("w", [NUMBERS])
    (tmp_path / "other.safetensors").unlink()
    assert own.are_unchanged
    assert place is not None
    assert torch.equal(own.map([place])[0], NUMBERS)
    (tmp_path / "model.safetensors").touch()
    assert not own.are_unchanged
