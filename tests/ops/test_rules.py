# SPDX-License-Identifier: Apache-2.0
"""The rules, by Prometheus' own tool."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.ops.files import OPS, expressions, load, metric_names, program, rules


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        [program("promtool"), *arguments], capture_output=True, text=True, check=False
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    shutil.copytree(OPS, tmp_path / "ops")
    (tmp_path / "ops" / "embeddings.token").write_text("a token")
    told = promtool("check", "config", tmp_path / "ops" / "prometheus.yaml")
    assert "2 rule files found" in told


@pytest.mark.parametrize("name", ["recording.yaml", "alerts.yaml"])
def test_rules_are_valid(name: str) -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", OPS / name)


def test_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", OPS / "alerts.test.yaml")


def test_every_alert_is_tested() -> None:
    tests = (OPS / "alerts.test.yaml").read_text(encoding="utf-8")
    tested = set(re.findall(r'alertname(?:=|: )"?(\w+)', tests))
    assert {rule["alert"] for rule in rules("alerts.yaml")} == tested


def test_a_broken_rule_fails_its_test(tmp_path: Path) -> None:
    shutil.copytree(OPS, tmp_path / "ops")
    file = tmp_path / "ops" / "alerts.yaml"
    text = file.read_text(encoding="utf-8")
    broken = text.replace('hw_type="gpu"} > 85', 'hw_type="gpu"} > 99')
    assert broken != text
    file.write_text(broken, encoding="utf-8")
    with pytest.raises(AssertionError, match="EmbeddingsGpuHot"):
        promtool("test", "rules", tmp_path / "ops" / "alerts.test.yaml")


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in rules("alerts.yaml"):
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description", "action"}, rule["alert"]


def test_alerts_ask_for_the_job_that_is_scraped() -> None:
    [scrape] = load("prometheus.yaml")["scrape_configs"]
    for rule in rules("recording.yaml", "alerts.yaml"):
        recorded = {name for name in metric_names(rule["expr"]) if ":" in name}
        raw = metric_names(rule["expr"]) - recorded
        named = rule["expr"].count(f'job="{scrape["job_name"]}"')
        assert not raw or named >= len(raw), rule


def test_recorded_series_are_recorded() -> None:
    recorded = {rule["record"] for rule in rules("recording.yaml")}
    asked = {name for each in expressions() for name in metric_names(each) if ":" in name}
    assert asked <= recorded
