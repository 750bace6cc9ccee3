# SPDX-License-Identifier: Apache-2.0
"""Durations as Go's programs write them: ``5m``, ``1h30m``, ``-1s``."""

from __future__ import annotations

import re

__all__ = ["parse_duration"]

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_WHOLE = re.compile(rf"([+-]?)((?:{_PART.pattern})+)", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)


def parse_duration(text: str) -> float | None:
    """Read a duration (https://pkg.go.dev/time#ParseDuration), or a number of seconds.

    Returns:
        Seconds; ``None`` if it is neither.
    """
    if _NUMBER.fullmatch(text):
        return float(text)
    if (whole := _WHOLE.fullmatch(text)) is None:
        return None
    seconds = sum(float(part[1]) * _UNITS[part[2]] for part in _PART.finditer(whole[2]))
    return -seconds if whole[1] == "-" else seconds
