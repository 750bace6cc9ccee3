# SPDX-License-Identifier: Apache-2.0
"""The row Models, but for its two panels of states."""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from grafana_lib.expressions import HERE, OF_MODEL, level, rate
from grafana_lib.panels import Panel, lines
from grafana_lib.states import states_table, states_timeline


def models() -> list[Panel]:
    """Where each model is, and what its moves cost."""
    return [
        states_table(),
        states_timeline(),
        lines(
            "Memory of models by tier",
            "Weights on the devices, parked in RAM, and on disk.",
            {"{{tier}}": level("appliance_model_memory_bytes", OF_MODEL, "tier")},
            units.BytesIEC,
            stacked=True,
        ),
        lines(
            "Memory for weights",
            "What weights take of each device and may take; host is the RAM for idle ones.",
            {
                "{{device}} in use": level("appliance_device_memory_usage_bytes", HERE, "device"),
                "{{device}} limit": level("appliance_device_memory_limit_bytes", HERE, "device"),
            },
            units.BytesIEC,
        ),
        lines(
            "Time spent in moves",
            "Share of the time, loads among them. The line is the bound of the alert"
            " EmbeddingsThrash: more models are in use than fit.",
            {"{{from}} to {{to}}": rate("appliance_swap_time_seconds_total", HERE, "from, to")},
            units.PercentUnit,
            stacked=True,
            steps=[(None, "green"), (0.3, "red")],
        ),
        lines(
            "Moves",
            "Of weights from tier to tier. From none: loaded from the model's own files.",
            {"{{from}} to {{to}}": f"60 * {rate('appliance_swaps_total', HERE, 'from, to')}"},
            units.CountsPerMinute,
        ),
        lines(
            "Weights moved",
            "Bytes a second, by where from and where to.",
            {"{{from}} to {{to}}": rate("appliance_swap_io_bytes_total", HERE, "from, to")},
            units.BytesPerSecondIEC,
        ),
        lines(
            "Time of a load",
            "Mean time to get a model ready from its own files, in the five minutes before.",
            {
                "{{model}}": "sum by (model) (increase(appliance_model_load_duration_seconds_sum"
                f"{{{OF_MODEL}}}[5m])) / (sum by (model) (increase("
                f"appliance_model_load_duration_seconds_count{{{OF_MODEL}}}[5m])) > 0)"
            },
            units.Seconds,
        ),
    ]
