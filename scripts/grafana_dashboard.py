# SPDX-License-Identifier: Apache-2.0
"""Write the dashboard for Grafana, ``ops/grafana.json``.

python scripts/grafana_dashboard.py [--check]

Grafana's own builders know its schema; here is only what is shown, and why. Panels ask the raw
metrics, not the recording rules, so that the dashboard works with any Prometheus that scrapes the
server.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as schema
from grafana_foundation_sdk.models import table
from grafana_lib.expressions import HERE
from grafana_lib.machine import machine
from grafana_lib.models import models
from grafana_lib.overview import overview
from grafana_lib.panels import SOURCE
from grafana_lib.queue_and_batches import queue_and_batches

DASHBOARD = Path(__file__).parent.parent / "ops" / "grafana.json"


def choice(
    name: str, label: str, labels_of: str, all_value: str | None = ".*"
) -> dashboard.QueryVariable:
    """A menu at the top of the page; all is chosen at first."""
    menu = (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(f"label_values({labels_of})")
        .refresh(schema.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(schema.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(schema.VariableOption(text="All", value="$__all"))
    )
    return menu if all_value is None else menu.all_value(all_value)


def without_leftovers(page: schema.Dashboard) -> schema.Dashboard:
    """Leave out what the builders write unasked and Grafana's newest schema does not have."""
    for variable in page.templating.list_val or []:
        variable.auto = variable.auto_count = variable.auto_min = None  # of menus of intervals
    for panel in page.panels or []:
        if isinstance(panel, schema.Panel) and isinstance(panel.options, table.Options):
            panel.options.footer = None
    return page


def build() -> schema.Dashboard:
    """All of it."""
    page = (
        dashboard.Dashboard("Embeddings")
        .uid("embeddings-appliance")
        .description("Servers of embeddings: work, queues, models and machines.")
        .tags(["embeddings"])
        .editable()
        .refresh("30s")
        .time("now-3h", "now")
        .timezone(kinds.TimeZoneBrowser)
        .tooltip(schema.DashboardCursorSync.CROSSHAIR)
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Source").type("prometheus")
        )
        # All jobs are those in the menu: the same Prometheus may watch other things as well, whose
        # up, process_* and http_* have the same names.
        .with_variable(choice("job", "Job", "appliance_last_action_age_seconds, job", None))
        .with_variable(
            choice(
                "instance", "Instance", 'appliance_last_action_age_seconds{job=~"$job"}, instance'
            )
        )
        .with_variable(choice("model", "Model", f"appliance_model_state{{{HERE}}}, model"))
        .annotation(
            dashboard.AnnotationQuery()
            .name("Alerts")
            .datasource(SOURCE)
            .expr('ALERTS{alertname=~"Embeddings.*", alertstate="firing"}')
            .icon_color("red")
            .enable(True)
        )
    )
    number_of = 0
    rows = {
        "Overview": overview(),
        "Queue and batches": queue_and_batches(),
        "Models": models(),
        "Machine": machine(),
    }
    for title, panels in rows.items():
        number_of += 1
        page.with_row(dashboard.Row(title).id(number_of))
        for panel in panels:
            number_of += 1
            page.with_panel(panel.id(number_of))
    return without_leftovers(page.build())


def render() -> str:
    """The dashboard as it is kept in ``ops``."""
    return json.dumps(build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description="Write the dashboard for Grafana.")
    parser.add_argument("--check", action="store_true", help="only tell whether it is up to date")
    if not parser.parse_args().check:
        DASHBOARD.write_text(render(), encoding="utf-8")
    elif not DASHBOARD.exists() or DASHBOARD.read_text(encoding="utf-8") != render():
        print(f"{DASHBOARD} is not up to date: run scripts/grafana_dashboard.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
