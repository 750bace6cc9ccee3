# SPDX-License-Identifier: Apache-2.0
"""The row Machine."""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from grafana_lib.expressions import HERE, level, rate
from grafana_lib.panels import Panel, lines


def machine() -> list[Panel]:
    """What the process and its machine have to give."""
    busy = rate("system_cpu_time_seconds_total", f'{HERE}, state!="idle"', "instance")
    all_time = rate("system_cpu_time_seconds_total", HERE, "instance")
    gpu = "{{hw_name}} ({{instance}})"
    return [
        lines(
            "CPU",
            "Shares of all cores: of the machine, and of the server's process.",
            {
                "{{instance}} machine": f"{busy} / {all_time}",
                "{{instance}} process": level("process_cpu_utilization", HERE, "instance"),
            },
            units.PercentUnit,
            most=1,
        ),
        lines(
            "Memory",
            "RAM of the process (RSS), of all processes, and of the machine.",
            {
                "{{instance}} process": level("process_memory_usage_bytes", HERE, "instance"),
                "{{instance}} all": level(
                    "system_memory_usage_bytes", f'{HERE}, state="used"', "instance"
                ),
                "{{instance}} machine": level("system_memory_usage_bytes", HERE, "instance"),
            },
            units.BytesIEC,
        ),
        lines(
            "Network",
            "Without the loopback device.",
            {
                "{{direction}}": rate(
                    "system_network_io_bytes_total", f'{HERE}, device!="lo"', "direction"
                )
            },
            units.BytesPerSecondIEC,
        ),
        lines(
            "GPU utilisation",
            "Share of time in which a GPU computes. Low with a long queue: look at the CPU.",
            {gpu: f"hw_gpu_utilization{{{HERE}}}"},
            units.PercentUnit,
            width=6,
            most=1,
        ),
        lines(
            "GPU memory",
            "By whichever process, as a share of each GPU's memory. The line is the alert's bound.",
            {gpu: f"hw_gpu_memory_utilization{{{HERE}}}"},
            units.PercentUnit,
            width=6,
            most=1,
            steps=[(None, "green"), (0.97, "red")],
        ),
        lines(
            "GPU temperature",
            "Cards slow down by themselves when they are too hot. The line is the alert's bound.",
            {gpu: f'hw_temperature_celsius{{{HERE}, hw_type="gpu"}}'},
            units.Celsius,
            width=6,
            steps=[(None, "green"), (85, "red")],
        ),
        lines(
            "GPU power",
            "A busy GPU that takes little is waiting for memory or for the CPU.",
            {gpu: f'hw_power_watts{{{HERE}, hw_type="gpu"}}'},
            units.Watt,
            width=6,
        ),
    ]
