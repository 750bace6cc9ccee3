# SPDX-License-Identifier: Apache-2.0
"""The collector's configuration, as far as can be told without a collector.

Debian, PyPI and npm do not have it: its own ``validate`` runs where it is installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.ops.files import OPS, load

FILE = OPS / "otel-collector.yaml"
KINDS = ("receivers", "processors", "exporters")
DEPRECATED = {"batch", "otlp", "otlphttp", "logging"}
"""Names that still work, with a warning; ``otlp`` stays the receiver's."""


def resolved() -> dict[str, Any]:
    """The configuration with no variable set."""
    text = FILE.read_text(encoding="utf-8")
    text = re.sub(r"\$\{env:\w+:-([^}]*)\}", r"\1", text)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def used(kind: str) -> set[str]:
    pipelines = resolved()["service"]["pipelines"].values()
    return {name for pipeline in pipelines for name in pipeline[kind]}


@pytest.mark.parametrize("kind", KINDS)
def test_what_pipelines_name_is_declared_and_the_reverse(kind: str) -> None:
    assert used(kind) == set(resolved()[kind])


def test_extensions_are_declared_and_started() -> None:
    configuration = resolved()
    assert set(configuration["service"]["extensions"]) == set(configuration["extensions"])


def test_memory_is_guarded_before_all_else() -> None:
    for pipeline in resolved()["service"]["pipelines"].values():
        assert pipeline["processors"][0] == "memory_limiter"


def test_no_name_is_deprecated() -> None:
    components = used("processors") | used("exporters")
    assert not {name.partition("/")[0] for name in components} & DEPRECATED


def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    configuration = resolved()
    protocols = configuration["receivers"]["otlp"]["protocols"].values()
    listening = [each["endpoint"] for each in protocols]
    listening.append(configuration["exporters"]["prometheus"]["endpoint"])
    listening.append(configuration["extensions"]["health_check"]["endpoint"])
    assert sorted(listening) == [f"127.0.0.1:{port}" for port in (13133, 4317, 4318, 8889)]


def test_prometheus_is_told_where_it_shows_metrics() -> None:
    text = (OPS / "prometheus.yaml").read_text(encoding="utf-8")
    assert resolved()["exporters"]["prometheus"]["endpoint"] in text
    commented = text[text.index("  # - job_name: embeddings-pushed") :]
    [pushed] = yaml.safe_load(re.sub(r"^  # ", "", commented, flags=re.MULTILINE))
    assert pushed["honor_labels"] is True
    [job] = pushed["metric_relabel_configs"]
    [scraped] = load("prometheus.yaml")["scrape_configs"]
    assert job == {"target_label": "job", "replacement": scraped["job_name"]}


def test_variables_that_are_read_are_described() -> None:
    text = FILE.read_text(encoding="utf-8")
    head = text.partition("receivers:")[0]
    read = set(re.findall(r"\$\{env:(\w+):-", text))
    assert read == set(re.findall(r"^#   ([A-Z_]+) ", head, re.MULTILINE))


def test_the_collector_itself_accepts_it() -> None:
    collector = shutil.which("otelcol-contrib")
    if collector is None:
        pytest.skip("otelcol-contrib is not installed, which Debian, PyPI and npm do not have")
    done = subprocess.run(
        [collector, "validate", "--config", FILE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
