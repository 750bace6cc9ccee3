# SPDX-License-Identifier: Apache-2.0
"""What lies in ``ops``, and what it asks of Prometheus."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

OPS = Path(__file__).parents[2] / "ops"

RATE_WINDOW = "15s"
"""What stands for Grafana's ``$__rate_interval`` here."""

_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^{}]*)\}")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_NOT_METRICS = {"by", "without", "or", "and", "unless", "on", "ignoring", "group_left", "bool"}


def program(name: str) -> str:
    """Where a program of Prometheus is, or a skipped test with the reason."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian's package prometheus)")
    return found


def load(name: str) -> Any:
    """One of the YAML files."""
    return yaml.safe_load((OPS / name).read_text(encoding="utf-8"))


def rules(*names: str) -> list[dict[str, Any]]:
    """Rules of some files."""
    return [rule for name in names for group in load(name)["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """Grafana's."""
    found: dict[str, Any] = json.loads((OPS / "grafana.json").read_text(encoding="utf-8"))
    return found


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels, without the headings of its rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def panel_expressions() -> Iterator[tuple[str, str]]:
    """Title of a panel, and what it asks, as Grafana would with everything chosen."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], chosen(target["expr"])


def chosen(expression: str) -> str:
    """An expression with Grafana's variables filled in."""
    values = {"job": "embeddings", "instance": ".*", "model": ".*", "__rate_interval": RATE_WINDOW}
    for name, value in values.items():
        expression = expression.replace(f"${name}", value)
    assert "$" not in expression, expression
    return expression


def expressions() -> list[str]:
    """Every expression in ``ops``."""
    found = [rule["expr"] for rule in rules("recording.yaml", "alerts.yaml")]
    found += [expression for _, expression in panel_expressions()]
    return found


def metric_names(expression: str) -> set[str]:
    """Names of series in an expression."""
    text = re.sub(r'"[^"]*"', '""', expression)
    text = re.sub(r"\{[^{}]*\}|\[[^\[\]]*\]", " ", text)
    text = re.sub(r"\b(by|without|on|ignoring)\s*\([^()]*\)", " ", text)
    return set(re.findall(r"(?<![\w.])[a-zA-Z_:][\w:]*(?!\w|\s*\()", text)) - _NOT_METRICS


def matchers(expression: str) -> Iterator[tuple[str, str, str]]:
    """Name of a series, name of a label that it is chosen by, and the values that are named."""
    for name, inside in _SELECTOR.findall(expression):
        for label, _, value in _MATCHER.findall(inside):
            yield name, label, value
