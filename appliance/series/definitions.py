# SPDX-License-Identifier: Apache-2.0
"""The series that there are, and what each is made of."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NO_GPU", "SERIES", "SHARES", "Definition", "column_of"]

NO_GPU = "There is no GPU on this machine."

SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
"""Lines of the series ``latency``."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One series.

    Attributes:
        name: As in the API.
        title: For people.
        unit: Of its values.
        lines: Names of its lines; empty: one for each GPU.
        missing: What to say where it cannot be had.
    """

    name: str
    title: str
    unit: str
    lines: tuple[str, ...] = ()
    missing: str = NO_GPU


SERIES = (
    Definition("requests", "Requests", "1/s", ("answered", "refused", "failed")),
    Definition("tokens", "Tokens", "1/s", ("tokens",)),
    Definition("latency", "Latency", "ms", tuple(SHARES)),
    Definition("queue", "Queue", "tokens", ("tokens",)),
    Definition("cpu", "CPU", "%", ("process", "system")),
    Definition("memory", "Memory", "bytes", ("process", "system")),
    Definition(
        "network", "Network", "B/s", ("received", "sent"), "This system counts no network traffic."
    ),
    Definition("disk", "Disk", "B/s", ("read", "written"), "This system counts no disk traffic."),
    Definition("gpu-utilization", "GPU utilization", "%"),
    Definition("gpu-memory", "GPU memory", "bytes"),
    Definition("gpu-temperature", "GPU temperature", "Cel"),
)


def column_of(series: str, line: str) -> str:
    """Name of the column that a line is read from."""
    return f"{series}.{line}"
