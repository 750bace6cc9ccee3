# SPDX-License-Identifier: Apache-2.0
"""The picture for the README: tokens a second of each system, and on short and long texts."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from bench_lib.plan import DTYPES, LONG, MAIN, SHORT
from bench_lib.results import floor
from bench_lib.servers import OWN

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench_lib.results import Rate, Results

__all__ = ["write_plot"]

OURS, THEIRS = "#1f6feb", "#9aa4af"
FLOOR_COLOURS = dict(zip(DTYPES, ("#d1242f", "#bc6c00"), strict=True))
LENGTH_COLOURS = {SHORT: "#8ec5ff", MAIN: "#1f6feb", LONG: "#0b2f6b"}
DOTS_PER_INCH = 160
"""Sharp on dense screens. White behind it, so that it reads on dark pages too."""


def write_plot(results: Results, path: Path) -> None:
    """Draw the picture as a PNG."""
    figure = Figure(figsize=(10, 7.4), layout="constrained", facecolor="white")
    above, below = figure.subplots(2, 1, height_ratios=(3, 2))
    _systems(above, results)
    _lengths(below, results)
    # No Date, no Software: the same figures give the same file.
    figure.savefig(path, dpi=DOTS_PER_INCH, format="png", metadata={"Software": None})


def _median(rate: Rate) -> float:
    return statistics.median(rate.tokens_per_second)


def _slowest_first(rates: Mapping[str, Rate], results: Results) -> list[str]:
    names = [name for name in rates if name in results.facts]
    return sorted(names, key=lambda name: _median(rates[name]))


def _systems(axes: Axes, results: Results) -> None:
    rates = results.rates[MAIN]
    names = _slowest_first(rates, results)
    speeds = [_median(rates[name]) for name in names]
    bars = axes.barh(
        names, speeds, color=[OURS if name.startswith(OWN) else THEIRS for name in names]
    )
    labels = [f"{speed:,.0f}" for speed in speeds]
    for text in axes.bar_label(bars, labels=labels, padding=4, fontsize=9):
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    for dtype, colour in FLOOR_COLOURS.items():
        if rate := rates.get(floor(dtype)):
            axes.axvline(
                _median(rate), color=colour, linestyle="--", linewidth=1.2, label=floor(dtype)
            )
    axes.set_title("Tokens a second, texts of mixed length", fontsize=11, loc="left")
    _tidy(axes)


def _lengths(axes: Axes, results: Results) -> None:
    rates = {name: results.rates.get(name, {}) for name in LENGTH_COLOURS}
    names = _slowest_first(rates[SHORT], results)
    height = 0.8 / len(rates)
    for place, (scenario, colour) in enumerate(LENGTH_COLOURS.items()):
        rows = [row + (1 - place) * height for row in range(len(names))]
        speeds = [_median(rates[scenario][name]) for name in names]
        axes.barh(rows, speeds, height=height, color=colour, label=scenario)
    axes.set_yticks(range(len(names)), names)
    axes.set_title("Tokens a second, by length of the texts", fontsize=11, loc="left")
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=9)
    axes.tick_params(axis="x", labelsize=9)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.margins(x=0.1)
    if axes.get_legend_handles_labels()[0]:
        # On the title's line, where no bar can be behind it.
        axes.legend(
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncols=3,
            fontsize=9,
            frameon=False,
            borderaxespad=0.2,
        )
