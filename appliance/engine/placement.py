# SPDX-License-Identifier: Apache-2.0
"""Which device a model goes to, and in which number format."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from appliance.errors import ModelUnavailable
from appliance.settings import ModelSettings

__all__ = ["Placement", "choose_dtype", "choose_placements", "count_parameters"]

logger = logging.getLogger(__name__)

MOST_OF_A_DEVICE = 0.9
"""Share of a device's free memory that weights may take; batches need the rest."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the weights of one copy of a model go.

    Attributes:
        device_map: For transformers: ``{"": device}``, or ``auto`` or ``balanced`` to have
            accelerate share out the layers.
        device: Where it computes, or the first of several such.
        max_memory: Bytes that may be used of each device, for accelerate.
    """

    device_map: str | dict[str, torch.device]
    device: torch.device
    max_memory: Mapping[int | str, str] | None = None


def choose_placements(model: ModelSettings, weight_bytes: int) -> list[Placement]:
    """Find a place for each copy of a model.

    Args:
        model: Its settings.
        weight_bytes: Size of its weights on the device.

    Raises:
        ModelUnavailable: The settings ask for devices that are not there.
    """
    accelerators = [torch.device("cuda", n) for n in range(torch.cuda.device_count())]
    if model.replicas > 1:
        return [_whole(device) for device in _several(accelerators, model.replicas)]
    if model.max_memory is not None or model.device_map == "balanced":
        first = accelerators[0] if accelerators else torch.device("cpu")
        spread = "balanced" if model.device_map == "balanced" else "auto"
        return [Placement(spread, first, _for_accelerate(model.max_memory))]
    if model.device_map != "auto":
        return [_whole(_named(model.device_map, accelerators))]
    if not accelerators:
        return [_whole(torch.device("cpu"))]
    roomiest = max(accelerators, key=_free_bytes)
    if weight_bytes <= MOST_OF_A_DEVICE * _free_bytes(roomiest):
        return [_whole(roomiest)]
    logger.warning(
        "%s: %.1f GiB of weights do not fit on one device; its layers are shared out, and those"
        " for which no device has room are streamed from RAM or disk, which is slow",
        model.name,
        weight_bytes / 2**30,
    )
    return [Placement("auto", accelerators[0])]


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
    safe = sum(_parameters(file) for file in folder.glob("*.safetensors"))
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


def _whole(device: torch.device) -> Placement:
    return Placement({"": device}, device)


def _several(accelerators: list[torch.device], replicas: int) -> list[torch.device]:
    if replicas > len(accelerators):
        raise ModelUnavailable(
            f"replicas is {replicas}, but this machine has {len(accelerators)} CUDA devices, and"
            " each copy needs one of its own; on a CPU one copy serves all cores"
        )
    return sorted(accelerators, key=_free_bytes, reverse=True)[:replicas]


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


def _free_bytes(device: torch.device) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    return free


def _for_accelerate(max_memory: Mapping[str, str] | None) -> dict[int | str, str] | None:
    return None if max_memory is None else dict(_numbered(max_memory))


def _numbered(max_memory: Mapping[str, str]) -> Iterator[tuple[int | str, str]]:
    for name, size in max_memory.items():
        _, _, number = name.partition(":")
        yield (int(number) if number else name), size
