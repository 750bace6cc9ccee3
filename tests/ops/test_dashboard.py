# SPDX-License-Identifier: Apache-2.0
"""The dashboard: fresh, whole, and as Grafana's schema has it."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import grafana_dashboard
import pytest

from tests.ops.files import OPS, dashboard, load, panels, rules

SCHEMA = Path(__file__).parent / "schema"
GRID_WIDTH = 24


def test_it_is_what_the_script_writes() -> None:
    written = (OPS / "grafana.json").read_text(encoding="utf-8")
    assert written == grafana_dashboard.render(), "run scripts/grafana_dashboard.py"


def test_panels_have_numbers_of_their_own() -> None:
    numbers = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_panels_fill_the_page_without_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = set(
            itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))
        )
        assert not cells & taken, panel["title"]
        taken |= cells
    height = 1 + max(y for _, y in taken)
    assert taken == set(itertools.product(range(GRID_WIDTH), range(height)))


def test_rows_are_in_order() -> None:
    rows = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]
    assert rows == ["Overview", "Queue and batches", "Models", "Machine"]


def test_every_panel_says_what_it_shows() -> None:
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        if panel["type"] in ("stat", "timeseries"):
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_every_question_goes_to_the_source_that_is_chosen() -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert dashboard()["templating"]["list"][0]["name"] == "datasource"
    for panel in panels():
        assert panel["datasource"] == chosen
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0, panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == chosen
            assert target["expr"].strip()


def test_every_question_is_about_the_instances_that_are_chosen() -> None:
    for panel in panels():
        for target in panel["targets"]:
            selectors = re.findall(r"\{([^{}]*)\}", target["expr"])
            assert selectors, panel["title"]
            for inside in selectors:
                assert 'job=~"$job", instance=~"$instance"' in inside, panel["title"]


def test_the_lines_that_panels_draw_are_the_alerts_bounds() -> None:
    bounds = {
        "Latency": "EmbeddingsSlow",
        "Time spent in moves": "EmbeddingsThrash",
        "GPU memory": "EmbeddingsGpuMemoryNearlyFull",
        "GPU temperature": "EmbeddingsGpuHot",
        "Tokens that wait": "EmbeddingsQueueNearlyFull",
    }
    drawn = {
        panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"]
        for panel in panels()
        if panel["type"] == "timeseries" and "thresholds" in panel["fieldConfig"]["defaults"]
    }
    assert drawn.keys() == bounds.keys()
    expressions = {rule["alert"]: rule["expr"] for rule in rules("alerts.yaml")}
    for title, alert in bounds.items():
        factors = expressions[alert].rpartition(">")[2].split("*")
        bound = float(factors[0]) * (float(factors[1]) if len(factors) > 1 else 1)
        assert drawn[title] == pytest.approx(bound), title


def test_prometheus_is_asked_for_more_than_one_sample() -> None:
    # Grafana's rate interval is four times that of the scrapes, which it takes to be 15 s.
    assert load("prometheus.yaml")["global"]["scrape_interval"] == "15s"


def typescript(page: dict[str, Any]) -> str:
    """A dashboard as literals that have Grafana's types."""
    lines = ['import type * as grafana from "./plain.ts";']
    lines.append(f"export const page: grafana.Dashboard = {json.dumps(page, indent=1)};")
    for panel in page["panels"]:
        if panel["type"] == "row":
            continue
        kind = panel["type"].replace("-", "_")
        options = json.dumps(panel.get("options", {}))
        lines.append(f"export const options{panel['id']}: Part<grafana.{kind}> = {options};")
        custom = panel.get("fieldConfig", {}).get("defaults", {}).get("custom")
        if custom and kind in ("timeseries", "state_timeline"):
            field = f"export const field{panel['id']}: Part<grafana.{kind}_field>"
            lines.append(f"{field} = {json.dumps(custom)};")
    lines.append("type Part<T> = Partial<grafana.Plain<T>>;")
    return "\n".join(lines)


def compile_as_grafana(page: dict[str, Any], folder: Path) -> str:
    """What TypeScript has against a dashboard; empty if nothing."""
    compiler = SCHEMA / "node_modules" / ".bin" / "tsc"
    if not compiler.exists() or shutil.which("node") is None:
        pytest.skip("Grafana's types are not installed (npm install --prefix tests/ops/schema)")
    for name in ("plain.ts", "package.json"):
        shutil.copy(SCHEMA / name, folder)
    (folder / "node_modules").symlink_to(SCHEMA / "node_modules")
    (folder / "page.ts").write_text(typescript(page), encoding="utf-8")
    options = "--noEmit --strict --skipLibCheck --allowImportingTsExtensions --target esnext"
    more = "--module esnext --moduleResolution bundler"
    command = [compiler, *options.split(), *more.split(), "page.ts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout


def test_it_fits_the_schema_that_grafana_publishes(tmp_path: Path) -> None:
    assert compile_as_grafana(dashboard(), tmp_path) == ""


def test_what_does_not_fit_the_schema_is_found(tmp_path: Path) -> None:
    page = dashboard()
    by_title = {panel["title"]: panel for panel in page["panels"]}
    by_title["Latency"]["options"]["legend"]["placement"] = "below"
    by_title["Latency"]["fieldConfig"]["defaults"]["custom"]["showPoints"] = "sometimes"
    by_title["CPU"]["gridPos"]["width"] = 3
    found = compile_as_grafana(page, tmp_path)
    assert [word in found for word in ("below", "sometimes", "width")] == [True] * 3
