# SPDX-License-Identifier: Apache-2.0
"""The table of points, as it is after every migration."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table

__all__ = ["metadata", "points"]

metadata = MetaData()

points = Table(
    "series_points",
    metadata,
    Column("step", Integer, primary_key=True),
    Column("begins", BigInteger, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)
"""``begins``: Unix seconds. ``content``: a ``Row`` of :mod:`appliance.series.history`, packed."""
