# SPDX-License-Identifier: Apache-2.0
"""Which device a model goes to, and in which number format."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ByteSize, TypeAdapter
from safetensors import safe_open

from appliance.engine.backend import Room
from appliance.engine.weights import safetensors_of
from appliance.errors import ModelUnavailable
from appliance.settings import ModelSettings

__all__ = ["Placement", "choose_dtype", "choose_placements", "count_parameters"]

logger = logging.getLogger(__name__)

MOST_OF_A_DEVICE = 0.9
"""Share of a device's memory that one model's weights may take; batches need the rest."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the weights of one copy of a model go.

    Attributes:
        device_map: For transformers: ``{"": device}``, or ``auto`` or ``balanced`` to have
            accelerate share out the layers.
        device: Where it computes, or the first of several such.
        sizes: Bytes that its weights will take of each device, as far as is known.
        max_memory: Bytes that may be used of each device, for accelerate.
    """

    device_map: str | dict[str, torch.device]
    device: torch.device
    sizes: Mapping[str, int]
    max_memory: Mapping[int | str, int | str] | None = None


def choose_placements(
    model: ModelSettings, weight_bytes: int, rooms: Mapping[str, Room]
) -> list[Placement]:
    """Find a place for each copy of a model.

    Args:
        model: Its settings.
        weight_bytes: Size of its weights on the device.
        rooms: The devices that there are; what others take of them can be had from those.

    Raises:
        ModelUnavailable: The settings ask for devices that are not there.
    """
    accelerators = [torch.device(name) for name in rooms if name != "cpu"]

    def whole(device: torch.device) -> Placement:
        return Placement({"": device}, device, {str(device): weight_bytes})

    def free(device: torch.device) -> int:
        return rooms[str(device)].capacity - rooms[str(device)].used

    def fits(device: torch.device) -> bool:
        return weight_bytes <= MOST_OF_A_DEVICE * rooms[str(device)].capacity

    if model.replicas > 1:
        by_room = sorted(accelerators, key=free, reverse=True)
        return [whole(device) for device in _several(by_room, model.replicas)]
    if model.max_memory is not None or model.device_map == "balanced":
        spread = "balanced" if model.device_map == "balanced" else "auto"
        return [_shared_out(spread, accelerators, weight_bytes, rooms, model.max_memory)]
    if model.device_map != "auto":
        return [whole(_named(model.device_map, accelerators))]
    candidates = accelerators or [torch.device("cpu")]
    if roomy := [device for device in candidates if fits(device)]:
        return [whole(max(roomy, key=free))]
    logger.warning(
        "%s: %.1f GiB of weights do not fit on one device; its layers are shared out, and those"
        " for which no device has room are streamed from RAM or disk, which is slow",
        model.name,
        weight_bytes / 2**30,
    )
    return [_shared_out("auto", accelerators, weight_bytes, rooms, None)]


def choose_dtype(name: str, quantization: str, device: torch.device) -> torch.dtype:
    """The number format that settings ask for, on a device."""
    if name in ("auto", "auto_fast"):
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            # Quantised weights are far from float32 anyhow.
            fast = quantization != "none" or (name == "auto_fast" and _computes_in_bfloat16())
        return torch.bfloat16 if fast else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def count_parameters(folder: Path) -> int:
    """Numbers that the weights of a folder hold; of safetensors only the heads are read."""
    safe = sum(_parameters(file) for file in safetensors_of(folder))
    # PyTorch's older format has no such head; its files are mostly of four bytes a number.
    return safe or sum(file.stat().st_size for file in folder.glob("pytorch_model*.bin")) // 4


def _parameters(file: Path) -> int:
    with safe_open(file, framework="pt") as weights:
        return sum(
            torch.Size(weights.get_slice(name).get_shape()).numel()
            for name in weights.keys()  # noqa: SIM118  # no mapping, though it has keys
        )


def _computes_in_bfloat16() -> bool:
    # Where the instructions are missing, bfloat16 is emulated: several times slower than float32.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _shared_out(
    device_map: str,
    accelerators: list[torch.device],
    weight_bytes: int,
    rooms: Mapping[str, Room],
    max_memory: Mapping[str, str] | None,
) -> Placement:
    """Layers on several devices, and in RAM and on disk what they have no room for."""
    names = [str(device) for device in accelerators] or ["cpu"]
    most = {name: int(MOST_OF_A_DEVICE * rooms[name].capacity) for name in rooms}
    if max_memory is not None:
        most = {name: min(most.get(name, 0), _bytes_of(s)) for name, s in max_memory.items()}
    sizes = {name: min(most.get(name, 0), -(-weight_bytes // len(names))) for name in names}
    if device_map == "auto":  # one device after the other is filled up
        left = weight_bytes
        for name in names:
            sizes[name] = min(most.get(name, 0), left)
            left -= sizes[name]
    first = accelerators[0] if accelerators else torch.device("cpu")
    numbered = {_number(name): size for name, size in most.items()}
    return Placement(device_map, first, {n: s for n, s in sizes.items() if s}, numbered)


def _several(accelerators: list[torch.device], replicas: int) -> list[torch.device]:
    if replicas > len(accelerators):
        raise ModelUnavailable(
            f"replicas is {replicas}, but this machine has {len(accelerators)} CUDA devices, and"
            " each copy needs one of its own; on a CPU one copy serves all cores"
        )
    return accelerators[:replicas]


def _named(device_map: str, accelerators: list[torch.device]) -> torch.device:
    device = torch.device(device_map)
    if device.type == "cpu":
        return device
    index = device.index or 0
    if index >= len(accelerators):
        raise ModelUnavailable(
            f"device_map is {device_map!r}, but this machine has {len(accelerators)} CUDA devices"
        )
    return accelerators[index]


def _bytes_of(size: str) -> int:
    return int(TypeAdapter(ByteSize).validate_python(size))


def _number(name: str) -> int | str:
    """A device's name as accelerate has it."""
    _, _, number = name.partition(":")
    return int(number) if number else name
