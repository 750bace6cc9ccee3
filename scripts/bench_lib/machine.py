# SPDX-License-Identifier: Apache-2.0
"""One line about the machine, for under the tables."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["machine_line"]


def machine_line(versions: dict[str, str]) -> str:
    """CPU, cores, memory, then the versions."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [_cpu_model(), f"{cores} cores", f"{memory:.0f} GiB"]
    parts.append(f"Python {platform.python_version()}")
    return ", ".join([*parts, *(f"{name} {version}" for name, version in versions.items())])


def _cpu_model() -> str:
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    model = fields.get("model name", platform.machine())
    known = fields.get("flags", "").split()
    shown = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in known]
    numbers = f"family {fields.get('cpu family', '?')} model {fields.get('model', '?')}"
    return f"{model} ({numbers}; {' '.join(shown)})"
