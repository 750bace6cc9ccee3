# SPDX-License-Identifier: Apache-2.0
"""GPUs, by a driver that is made up."""

from __future__ import annotations

import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from appliance.telemetry.gpus import GpuReading, Gpus
from tests.conftest import run_in_thread


class FakeNvml(ModuleType):
    """The library, and two GPUs: one tells all, the other is a part of one and tells little."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        """What all of its errors are."""

    def __init__(self, *, has_driver: bool = True, is_old: bool = False) -> None:
        super().__init__("pynvml")
        self._has_driver = has_driver
        self._is_old = is_old

    def nvmlInit(self) -> None:  # noqa: N802  # NVML's name, as are those that follow
        if not self._has_driver:
            raise self.NVMLError("NVML Shared Library Not Found")

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.1"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return "NVIDIA Example"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        self._only_first(handle)
        return SimpleNamespace(gpu=37, memory=5)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=3 * 2**30, total=8 * 2**30, free=5 * 2**30)

    def nvmlDeviceGetTemperatureV(self, handle: int, sensor: int) -> int:  # noqa: N802
        if self._is_old:
            raise self.NVMLError("Function Not Found")
        self._only_first(handle)
        return 61

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:  # noqa: N802
        self._only_first(handle)
        return 62

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        self._only_first(handle)
        return 250_500

    def _only_first(self, handle: int) -> None:
        if handle:
            raise self.NVMLError("Not Supported")


def use(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)


def test_gpus_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeNvml())
    gpus = Gpus()
    assert gpus.available
    name, memory = "NVIDIA Example", (3 * 2**30, 8 * 2**30)
    assert gpus.read() == [
        GpuReading(0, "GPU-0", name, 0.37, *memory, 61.0, 250.5, "580.1"),
        GpuReading(1, "GPU-1", name, None, *memory, None, None, "580.1"),
    ]


def test_old_drivers_tell_the_temperature_too(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeNvml(is_old=True))
    assert [reading.temperature for reading in Gpus().read()] == [62.0, None]


def test_no_driver_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use(monkeypatch, FakeNvml(has_driver=False))
    with caplog.at_level(logging.INFO):
        gpus = Gpus()
    assert not gpus.available
    assert gpus.read() == []
    assert not caplog.records


def test_gpus_are_in_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeNvml())
    with run_in_thread() as server:
        text = httpx.get(f"{server.url}/metrics").text
    of_gpu = {
        family.name: [(sample.labels, sample.value) for sample in family.samples]
        for family in text_string_to_metric_families(text)
        if family.name.startswith("hw_")
    }
    first, second = (
        {
            "hw_id": f"GPU-{index}",
            "hw_name": f"GPU {index}",
            "hw_model": "NVIDIA Example",
            "hw_vendor": "NVIDIA",
            "hw_driver_version": "580.1",
        }
        for index in (0, 1)
    )
    assert of_gpu == {
        "hw_gpu_memory_limit_bytes": [(first, 8 * 2**30), (second, 8 * 2**30)],
        "hw_gpu_memory_usage_bytes": [(first, 3 * 2**30), (second, 3 * 2**30)],
        "hw_gpu_memory_utilization": [(first, 0.375), (second, 0.375)],
        "hw_gpu_utilization": [({**first, "hw_gpu_task": "general"}, 0.37)],
        "hw_temperature_celsius": [({**first, "hw_type": "gpu"}, 61)],
        "hw_power_watts": [({**first, "hw_type": "gpu"}, 250.5)],
    }


def test_without_gpus_the_metrics_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeNvml(has_driver=False))
    with run_in_thread() as server:
        assert "hw_" not in httpx.get(f"{server.url}/metrics").text
