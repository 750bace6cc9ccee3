# SPDX-License-Identifier: Apache-2.0
"""Metrics, for Prometheus to read."""

from __future__ import annotations

from litestar import Controller, Response, get
from litestar.di import NamedDependency

from appliance.telemetry.instance import Telemetry

__all__ = ["MetricsController"]

PROMETHEUS_TEXT = "text/plain; version=0.0.4"  # the framework adds the character set


class MetricsController(Controller):
    """For those who watch. Asking wakes no model and keeps none loaded."""

    tags = ("Status",)

    @get("/metrics", media_type=PROMETHEUS_TEXT)
    async def metrics(self, telemetry: NamedDependency[Telemetry]) -> Response[bytes]:
        """All metrics, in Prometheus' text format."""
        return Response(await telemetry.text(), media_type=PROMETHEUS_TEXT)
