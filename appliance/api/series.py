# SPDX-License-Identifier: Apache-2.0
"""What was recorded, for plots."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import numpy as np
from litestar import Controller, Request, Response, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from numpy.typing import NDArray

from appliance.api.queries import refuse_unknown
from appliance.errors import InvalidRequest
from appliance.series.definitions import SERIES, SHARES, Definition, column_of
from appliance.series.histogram import percentiles
from appliance.series.history import LONGEST_WINDOW, MINUTE, Window
from appliance.series.recorder import Recorder

__all__ = ["SeriesController"]

DIGITS = 5
"""Significant ones of a value, or all before the point; no screen shows more."""


_NAMES = "|".join(definition.name for definition in SERIES)


class Line(msgspec.Struct):
    """One line of a plot.

    Attributes:
        name: Among the lines of its series.
        values: One for each of the series' times; ``null`` where nothing is known.
    """

    name: str
    values: list[float | None]


class Series(msgspec.Struct):
    """One plot.

    Attributes:
        name: As it is asked for.
        title: For people.
        unit: Of the values, as UCUM writes it, or in plain words.
        available: Whether this machine has it.
        note: Why not; else empty.
        times: When each point ended, in Unix seconds, ascending. A point tells of the time since
            the one before.
        lines: The values.
    """

    name: str
    title: str
    unit: str
    available: bool
    note: str
    times: list[float]
    lines: list[Line]


class SeriesAnswer(msgspec.Struct):
    """Answer of ``GET /api/series``.

    Attributes:
        now: Time of the answer, in Unix seconds.
        window: As asked for, in seconds.
        step: Seconds from one point to the next.
        series: Those asked for.
    """

    now: float
    window: int
    step: int
    series: list[Series]


class SeriesController(Controller):
    """The last day, in points of five seconds for an hour, of a minute before that."""

    tags = ("Status",)

    @get("/api/series")
    async def series(
        self,
        request: Request[Any, Any, Any],
        recorder: NamedDependency[Recorder],
        window: Annotated[
            int,
            QueryParameter(ge=MINUTE, le=LONGEST_WINDOW, description="Seconds, up to now."),
        ] = 900,
        names: Annotated[
            str | None,
            QueryParameter(
                description="Names of series, separated by commas. Unset: all.",
                schema_extra={"pattern": f"^({_NAMES})(,({_NAMES}))*$"},
            ),
        ] = None,
    ) -> Response[SeriesAnswer]:
        """What the instance did and took of late. Up to an hour comes in points of five seconds."""
        refuse_unknown(request, "window", "names")
        wanted = SERIES if names is None else tuple(_chosen(names))
        seen = recorder.history.read(window)
        # A day of percentiles would hold up the event loop.
        found = await asyncio.to_thread(
            lambda: [_series(definition, recorder, seen) for definition in wanted]
        )
        return Response(SeriesAnswer(recorder.clock.wall, window, seen.step, found))


def _chosen(names: str) -> Iterator[Definition]:
    by_name = {definition.name: definition for definition in SERIES}
    for name in dict.fromkeys(part.strip() for part in names.split(",")):
        if name not in by_name:
            raise InvalidRequest(
                f"'names' is invalid: there is no series {name!r}. Known are {', '.join(by_name)}.",
                param="names",
            )
        yield by_name[name]


def _series(definition: Definition, recorder: Recorder, seen: Window) -> Series:
    names = recorder.lines(definition)
    values = _values(definition, names, recorder, seen)
    return Series(
        name=definition.name,
        title=definition.title,
        unit=definition.unit,
        available=bool(names),
        note="" if names else definition.missing,
        times=seen.times if names else [],
        lines=[Line(name, _plain(line)) for name, line in zip(names, values, strict=True)],
    )


def _values(
    definition: Definition, names: tuple[str, ...], recorder: Recorder, seen: Window
) -> list[NDArray[np.float64]]:
    if definition.name == "latency":
        return percentiles(seen.points.latencies, tuple(SHARES.values()))
    means = seen.points.means
    columns = (column_of(definition.name, name) for name in names)
    return [means[:, recorder.history.place(column)] for column in columns]


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    """Numbers of few digits; the encoder writes NaN as ``null``."""
    with np.errstate(divide="ignore"):
        places = DIGITS - 1 - np.floor(np.log10(np.abs(values)))
    scale = 10.0 ** np.clip(np.nan_to_num(places), 0, 3 * DIGITS)
    rounded: list[float | None] = (np.round(values * scale) / scale).tolist()
    return rounded
