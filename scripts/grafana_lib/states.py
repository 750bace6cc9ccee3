# SPDX-License-Identifier: Apache-2.0
"""The states of models: as a table of now, and over time."""

from __future__ import annotations

from grafana_foundation_sdk.builders import common, statetimeline, table
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as schema
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana_lib.expressions import OF_MODEL, level, rate
from grafana_lib.panels import SOURCE, query

STATES = {
    "unloaded": "text",
    "loading": "blue",
    "active": "green",
    "idle": "dark-green",
    "offloaded": "yellow",
    "swapped": "orange",
    "failed": "red",
}
"""Each state of a model and its colour; its place is its number on the timeline."""

TABLE_COLUMNS = {
    "instance": "Instance",
    "model": "Model",
    "state": "State",
    "Value #B": "On the device",
    "Value #C": "In RAM",
    "Value #D": "On disk",
    "Value #E": "Requests at work",
    "Value #F": "Tokens/s",
}


def states_table() -> table.Panel:
    """One row a model: state, memory, work."""
    by = "instance, model"
    memory = "appliance_model_memory_bytes"
    columns = [
        f"max by ({by}, state) (appliance_model_state{{{OF_MODEL}}} == 1)",
        *(level(memory, f'{OF_MODEL}, tier="{tier}"', by) for tier in ("device", "host", "disk")),
        level("appliance_model_requests", OF_MODEL, by),
        rate("appliance_batch_tokens_sum", OF_MODEL, by),
    ]
    panel = (
        table.Panel()
        .title("Models")
        .description(
            "Where each model is now. Unloaded, offloaded (in RAM) and swapped (on disk) ones"
            " come back when they are asked for."
        )
        .datasource(SOURCE)
        .filterable(True)
        .sort_by([common.TableSortByFieldState().display_name("Model")])
        .with_transformation(schema.DataTransformerConfig("merge", options={}))
        .with_transformation(
            schema.DataTransformerConfig(
                "organize",
                options={
                    "excludeByName": {"Time": True, "Value #A": True},
                    "indexByName": {name: place for place, name in enumerate(TABLE_COLUMNS)},
                    "renameByName": TABLE_COLUMNS,
                },
            )
        )
        .span(12)
        .height(9)
    )
    for place, expression in enumerate(columns):
        panel.with_target(query(expression, "", place).instant().format(PromQueryFormat.TABLE))
    for name in ("On the device", "In RAM", "On disk"):
        panel.override_by_name(name, [schema.DynamicConfigValue("unit", units.BytesIEC)])
    colours = {
        state: schema.ValueMappingResult(color=colour, index=place)
        for place, (state, colour) in enumerate(STATES.items())
    }
    return panel.override_by_name(
        "State",
        [
            schema.DynamicConfigValue("mappings", [schema.ValueMap(colours)]),
            schema.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
        ],
    ).override_by_name("Tokens/s", [schema.DynamicConfigValue("decimals", 0)])


def states_timeline() -> statetimeline.Panel:
    """Each model's state over time, as a number that is shown as a word."""
    each = (
        f'{place} * max by (instance, model) (appliance_model_state{{{OF_MODEL}, state="{state}"}})'
        for place, state in enumerate(STATES)
    )
    words = {
        str(place): schema.ValueMappingResult(text=state, color=colour, index=place)
        for place, (state, colour) in enumerate(STATES.items())
    }
    return (
        statetimeline.Panel()
        .title("States of models")
        .description("Many short stripes are models that take turns: see Time spent in moves.")
        .datasource(SOURCE)
        .with_target(query(" + ".join(each), "{{model}} ({{instance}})"))
        .mappings([schema.ValueMap(words)])
        .merge_values(True)
        .show_value(kinds.VisibilityMode.AUTO)
        .row_height(0.8)
        .fill_opacity(75)
        .line_width(0)
        .legend(
            common.VizLegendOptions()
            .display_mode(kinds.LegendDisplayMode.LIST)
            .placement(kinds.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
        .span(12)
        .height(9)
    )
