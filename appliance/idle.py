# SPDX-License-Identifier: Apache-2.0
"""What an orchestrator learns of an instance that nobody uses: reports, and a clean end."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from appliance.durable import write_durably
from appliance.engine.service import Engine
from appliance.settings import Settings

__all__ = ["LastAction", "last_action", "watch_idleness", "write_report"]

logger = logging.getLogger(__name__)


class LastAction(msgspec.Struct):
    """When the instance was last used.

    Attributes:
        last_action: When the last request for an embedding came or ended; the start if none did.
        idle_seconds: Time since then; 0 while there is one.
        idle_time_limit_seconds: Time after which the instance stops, if it ever does.
        reported: When this was written.
    """

    last_action: datetime
    idle_seconds: float
    idle_time_limit_seconds: float | None
    reported: datetime


def last_action(engine: Engine) -> LastAction:
    """Say when an engine was last used."""
    hours = engine.settings.idle_time_limit_hours
    idle = engine.idle_seconds
    now = time.time()
    return LastAction(
        datetime.fromtimestamp(now - idle, UTC),
        round(idle, 3),
        None if hours is None else hours * 3600,
        datetime.fromtimestamp(now, UTC),
    )


async def watch_idleness(engine: Engine, stop: Callable[[], None]) -> None:
    """Report when the instance was last used, and stop it when that is too long ago.

    Args:
        engine: The engine.
        stop: Stops the instance.
    """
    settings = engine.settings
    interval = settings.last_action_report_interval_seconds or math.inf
    hours = settings.idle_time_limit_hours
    limit = math.inf if hours is None else hours * 3600
    if interval == limit == math.inf:
        return
    report_in = 0.0
    while (left := limit - engine.idle_seconds) > 0:
        if report_in <= 0:
            await _report(engine, settings)
            report_in = interval
        pause = min(report_in, left)
        await asyncio.sleep(pause)
        report_in -= pause
    logger.info("idle for %.4g hours, the limit: stopping", hours)
    await _report(engine, settings)
    stop()


async def _report(engine: Engine, settings: Settings) -> None:
    if settings.last_action_report_interval_seconds is None:
        return
    report = last_action(engine)
    logger.info("last action %s, %.0f s ago", report.last_action.isoformat(), report.idle_seconds)
    if settings.last_action_file is not None:
        try:
            await asyncio.to_thread(write_report, settings.last_action_file, report)
        except OSError as error:  # the next report may find room
            logger.warning("last_action_file cannot be written: %s", error)


def write_report(path: Path, report: LastAction) -> None:
    """Replace a file as a whole, so that a reader never sees half of one.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_durably(path) as file:
        file.write(msgspec.json.encode(report) + b"\n")
