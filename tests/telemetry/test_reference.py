# SPDX-License-Identifier: Apache-2.0
"""The README's table of metrics is true."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from appliance.settings import ModelSettings
from tests.conftest import run_in_thread
from tests.fakes import FakeBackend, loading
from tests.telemetry.test_gpus import FakeNvml, use

README = Path(__file__).parents[2] / "README.md"
ROW = re.compile(r"^\| `(\w+)` \| (counter|gauge|histogram) \|([^|]*)\|", re.MULTILINE)
MODEL = "fake/model"


def told() -> dict[str, tuple[str, set[str]]]:
    """Kind and labels of each metric, as the README has them."""
    _, _, after = README.read_text(encoding="utf-8").partition("\n### Metrics\n")
    section = after.partition("\n## ")[0]
    return {
        name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in ROW.findall(section)
    }


def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, set[str]]]:
    """The same, as the server has them when all that can happen has."""
    use(monkeypatch, FakeNvml())

    def make(_: ModelSettings) -> FakeBackend:
        backend = FakeBackend()
        backend.fidelity = 0.99  # type: ignore[attr-defined]
        return backend

    with run_in_thread(load=loading(make)) as server:
        httpx.get(f"{server.url}/metrics")
        server.embed(model=MODEL, input="a")
        assert server.engine is not None
        server.engine.models[0].settings = server.engine.models[0].settings.model_copy(
            update={"max_concurrent_requests": 0}
        )
        assert server.embed(model=MODEL, input="a").status_code == 429
        httpx.get(f"{server.url}/health")
        text = httpx.get(f"{server.url}/metrics").text
    return {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in text_string_to_metric_families(text)
    }


def test_the_readme_tells_of_every_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    found = served(monkeypatch)
    # Only of answers with a status above 499, of which there is none here.
    found["http_server_request_duration_seconds"][1].add("error_type")
    assert found == told()
