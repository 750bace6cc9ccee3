# SPDX-License-Identifier: Apache-2.0
"""What is read of GPUs when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from opentelemetry.metrics import Meter

from appliance.telemetry.gpus import GpuReading
from appliance.telemetry.observing import Observer, Point, Recent, observer

__all__ = ["observe_gpus"]


def observe_gpus(meter: Meter, read: Callable[[], list[GpuReading]]) -> None:
    """Let GPUs be read.

    Args:
        meter: Makes the instruments.
        read: Reads them.
    """
    seen = Recent(read)

    def each(
        value: Callable[[GpuReading], float | None], attributes: dict[str, str]
    ) -> list[Observer]:
        def points() -> Iterator[Point]:
            for gpu in seen():
                if (found := value(gpu)) is not None:
                    yield found, {**_gpu_attributes(gpu), **attributes}

        return observer(points)

    def share_of_memory(gpu: GpuReading) -> float | None:
        if gpu.memory_used is None or not gpu.memory_total:
            return None
        return gpu.memory_used / gpu.memory_total

    of_gpu = {"hw.type": "gpu"}
    gauge = meter.create_observable_gauge
    level = meter.create_observable_up_down_counter
    level(
        "hw.gpu.memory.limit", each(lambda gpu: gpu.memory_total, {}), "By", "Size of GPU memory."
    )
    level("hw.gpu.memory.usage", each(lambda gpu: gpu.memory_used, {}), "By", "GPU memory in use.")
    gauge(
        "hw.gpu.memory.utilization", each(share_of_memory, {}), "1", "Share of GPU memory in use."
    )
    gauge(
        "hw.gpu.utilization",
        each(lambda gpu: gpu.utilization, {"hw.gpu.task": "general"}),
        "1",
        "Share of time in which the GPU computes.",
    )
    gauge(
        "hw.temperature", each(lambda gpu: gpu.temperature, of_gpu), "Cel", "Temperature of a GPU."
    )
    gauge("hw.power", each(lambda gpu: gpu.power, of_gpu), "W", "Power that a GPU takes.")


def _gpu_attributes(gpu: GpuReading) -> dict[str, str]:
    return {
        "hw.id": gpu.id,
        "hw.name": f"GPU {gpu.index}",
        "hw.model": gpu.name,
        "hw.vendor": "NVIDIA",
        "hw.driver_version": gpu.driver_version,
    }
