# SPDX-License-Identifier: Apache-2.0
"""What the system tells of the process, of itself and of its GPUs."""

from __future__ import annotations

from dataclasses import dataclass, field

import psutil

from appliance.engine.cores import available_cores
from appliance.series.definitions import column_of
from appliance.telemetry.gpus import GpuReading, Gpus

__all__ = ["Probes", "Reading"]

_IDLE = ("idle", "iowait")
_COUNTED_TWICE = ("guest", "guest_nice")
"""Linux has them in ``user`` and ``nice`` as well."""


@dataclass(slots=True)
class Reading:
    """Values by column. What cannot be had is not there.

    Attributes:
        totals: What has come together since the system or the process began; plotted as a rate.
        levels: What is so at the moment.
    """

    totals: dict[str, float] = field(default_factory=dict)
    levels: dict[str, float] = field(default_factory=dict)


class Probes:
    """Reads the system. Making and reading block: not for the event loop.

    Attributes:
        gpu_lines: Names of the GPUs, as lines are called.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._gpus = Gpus()
        self.gpu_lines = [_line_of(gpu) for gpu in self._gpus.read()]

    def read(self) -> Reading:
        """Read everything; well below a millisecond, and about one for each GPU."""
        reading = Reading()
        self._read_process(reading)
        _read_system(reading)
        for gpu in self._gpus.read():
            _read_gpu(gpu, reading)
        return reading

    def _read_process(self, reading: Reading) -> None:
        with self._process.oneshot():
            times = self._process.cpu_times()
            memory = self._process.memory_info().rss
        busy = times.user + times.system
        reading.totals[column_of("cpu", "process")] = 100 * busy / available_cores()
        reading.levels[column_of("memory", "process")] = memory


def _read_system(reading: Reading) -> None:
    times = psutil.cpu_times()._asdict()
    busy = sum(v for name, v in times.items() if name not in (*_IDLE, *_COUNTED_TWICE))
    reading.totals[column_of("cpu", "system")] = 100 * busy / (psutil.cpu_count() or 1)
    memory = psutil.virtual_memory()
    reading.levels[column_of("memory", "system")] = memory.total - memory.available
    if (network := psutil.net_io_counters()) is not None:
        reading.totals[column_of("network", "received")] = network.bytes_recv
        reading.totals[column_of("network", "sent")] = network.bytes_sent
    if (disk := psutil.disk_io_counters()) is not None:
        reading.totals[column_of("disk", "read")] = disk.read_bytes
        reading.totals[column_of("disk", "written")] = disk.write_bytes


def _read_gpu(gpu: GpuReading, reading: Reading) -> None:
    line = _line_of(gpu)
    if gpu.utilization is not None:
        reading.levels[column_of("gpu-utilization", line)] = 100 * gpu.utilization
    if gpu.memory_used is not None:
        reading.levels[column_of("gpu-memory", line)] = gpu.memory_used
    if gpu.temperature is not None:
        reading.levels[column_of("gpu-temperature", line)] = gpu.temperature


def _line_of(gpu: GpuReading) -> str:
    return f"{gpu.index} {gpu.name}"
