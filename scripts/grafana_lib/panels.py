# SPDX-License-Identifier: Apache-2.0
"""Panels as this dashboard has them: units, legends, colours, sizes."""

from __future__ import annotations

from typing import TypeAlias

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as schema
from grafana_foundation_sdk.models import heatmap as heatmap_schema
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.prometheus import PromQueryFormat, QueryEditorMode

from grafana_lib.expressions import OF_MODEL

SOURCE = schema.DataSourceRef(type_val="prometheus", uid="${datasource}")
"""The Prometheus that is chosen at the top of the page."""

Panel: TypeAlias = timeseries.Panel | stat.Panel | heatmap.Panel | statetimeline.Panel | table.Panel
Steps: TypeAlias = list[tuple[float | None, str]]


def query(expression: str, legend: str, number: int = 0) -> prometheus.Dataquery:
    """One question to Prometheus."""
    return (
        prometheus.Dataquery()
        .expr(expression)
        .range()
        .editor_mode(QueryEditorMode.CODE)
        .legend_format(legend)
        .ref_id(chr(ord("A") + number))
        .datasource(SOURCE)
    )


def thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    """Colours from a value on; the first has none."""
    colours = [schema.Threshold(value, colour) for value, colour in steps]
    return dashboard.ThresholdsConfig().mode(schema.ThresholdsMode.ABSOLUTE).steps(colours)


def number(
    title: str, description: str, expression: str, unit: str, steps: Steps, *, graph: bool = True
) -> stat.Panel:
    """A single number of now, with its course behind it."""
    mode = kinds.BigValueGraphMode.AREA if graph else kinds.BigValueGraphMode.NONE
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .with_target(query(expression, title))
        .unit(unit)
        .no_value("none")
        .thresholds(thresholds(steps))
        .color_scheme(dashboard.FieldColor().mode(schema.FieldColorModeId.THRESHOLDS))
        .color_mode(kinds.BigValueColorMode.VALUE)
        .graph_mode(mode)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .span(4)
        .height(4)
    )


def lines(
    title: str,
    description: str,
    targets: dict[str, str],
    unit: str,
    *,
    width: int = 8,
    stacked: bool = False,
    most: float | None = None,
    steps: Steps | None = None,
) -> timeseries.Panel:
    """Lines over time. ``targets``: expressions by legend."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .line_width(1)
        .fill_opacity(25 if stacked else 8)
        .show_points(kinds.VisibilityMode.NEVER)
        .span_nulls(False)
        .legend(
            common.VizLegendOptions()
            .display_mode(kinds.LegendDisplayMode.TABLE)
            .placement(kinds.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["mean", "max", "lastNotNull"])
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(kinds.TooltipDisplayMode.MULTI)
            .sort(kinds.SortOrder.DESCENDING)
        )
        .span(width)
        .height(8)
    )
    for place, (legend, expression) in enumerate(targets.items()):
        panel.with_target(query(expression, legend, place))
    if stacked:
        panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A"))
    if most is not None:
        panel.max(most)
    if steps is not None:
        style = common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED)
        panel.thresholds(thresholds(steps)).thresholds_style(style)
    return panel


def buckets(title: str, description: str, histogram: str, unit: str) -> heatmap.Panel:
    """How often each size was seen, over time."""
    expression = f"sum by (le) (increase({histogram}_bucket{{{OF_MODEL}}}[$__rate_interval]))"
    colours = (
        heatmap.HeatmapColorOptions()
        .mode(heatmap_schema.HeatmapColorMode.SCHEME)
        .scheme("Blues")
        .steps(64)
        .scale(heatmap_schema.HeatmapColorScale.EXPONENTIAL)
        .exponent(0.5)
    )
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .with_target(query(expression, "{{le}}").format(PromQueryFormat.HEATMAP))
        .calculate(False)
        .color(colours)
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .cell_values(heatmap.CellValues().unit(units.Short))
        .y_axis(
            heatmap.YAxisConfig().unit(unit).axis_placement(kinds.AxisPlacement.LEFT).decimals(0)
        )
        .rows_frame(heatmap.RowsHeatmapOptions().layout(kinds.HeatmapCellLayout.AUTO))
        .show_value(kinds.VisibilityMode.NEVER)
        .cell_gap(1)
        .mode(kinds.TooltipDisplayMode.SINGLE)
        .show_y_histogram()
        .show_legend()
        .span(8)
        .height(8)
    )
