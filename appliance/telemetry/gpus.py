# SPDX-License-Identifier: Apache-2.0
"""The GPUs of this machine, as NVIDIA's management library (NVML) sees them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["GpuReading", "Gpus"]

logger = logging.getLogger(__name__)

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at one moment. ``None``: it does not tell.

    Attributes:
        index: Its number by NVML, in the order of PCI buses.
        id: Its UUID.
        name: Product name.
        utilization: Share of the last sampling period in which a kernel ran, 0 to 1.
        memory_used: Bytes, those of other processes too.
        memory_total: Bytes.
        temperature: Degrees Celsius.
        power: Watts.
        driver_version: Of the driver.
    """

    index: int
    id: str
    name: str
    utilization: float | None
    memory_used: int | None
    memory_total: int | None
    temperature: float | None
    power: float | None
    driver_version: str


@dataclass(frozen=True, slots=True)
class _Gpu:
    index: int
    handle: Any
    id: str
    name: str


class Gpus:
    """Reads all GPUs. Without a driver there are none, which is no fault.

    Making one loads NVML, which may take a good part of a second: not for the event loop.

    Attributes:
        available: Whether there is a GPU.
    """

    def __init__(self) -> None:
        self._driver = ""
        self._gpus: list[_Gpu] = []
        try:
            # Not at the top: the port answers before 7000 lines of bindings are read.
            import pynvml
        except ImportError:
            return
        self._nvml: Any = pynvml
        try:
            self._nvml.nvmlInit()
            self._driver = self._nvml.nvmlSystemGetDriverVersion()
            self._gpus = [self._describe(index) for index in range(self._count())]
        except self._nvml.NVMLError as error:
            logger.debug("no GPU is watched: %s", error)

    @property
    def available(self) -> bool:
        """Whether there is a GPU."""
        return bool(self._gpus)

    def read(self) -> list[GpuReading]:
        """Read each GPU; a millisecond or so for each. Raises nothing."""
        return [self._read(gpu) for gpu in self._gpus]

    def _count(self) -> int:
        count: int = self._nvml.nvmlDeviceGetCount()
        return count

    def _describe(self, index: int) -> _Gpu:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        return _Gpu(
            index,
            handle,
            self._nvml.nvmlDeviceGetUUID(handle),
            self._nvml.nvmlDeviceGetName(handle),
        )

    def _read(self, gpu: _Gpu) -> GpuReading:
        nvml, handle = self._nvml, gpu.handle
        rates = self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        memory = self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        degrees = self._degrees(handle)
        milliwatts = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        return GpuReading(
            index=gpu.index,
            id=gpu.id,
            name=gpu.name,
            utilization=None if rates is None else rates / 100,
            memory_used=None if memory is None else memory.used,
            memory_total=None if memory is None else memory.total,
            temperature=None if degrees is None else float(degrees),
            power=None if milliwatts is None else milliwatts / 1000,
            driver_version=self._driver,
        )

    def _degrees(self, handle: Any) -> int | None:
        nvml = self._nvml
        sensor = nvml.NVML_TEMPERATURE_GPU
        degrees = self._ask(lambda: nvml.nvmlDeviceGetTemperatureV(handle, sensor))
        if degrees is not None:
            return int(degrees)
        # Drivers of before CUDA 13 have only the older call.
        return self._ask(lambda: int(nvml.nvmlDeviceGetTemperature(handle, sensor)))

    def _ask(self, question: Callable[[], Value]) -> Value | None:
        """One value; ``None`` where a GPU, such as a part of one (MIG), does not tell it."""
        try:
            return question()
        except self._nvml.NVMLError:
            return None
