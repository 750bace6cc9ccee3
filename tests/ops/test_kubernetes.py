# SPDX-License-Identifier: Apache-2.0
"""The Helm chart: what it makes is what Kubernetes and those who extend it take."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from tests.ops.charts import CHART, LEAST, Manifest, everything, helm, render

SCHEMA = Path(__file__).parent / "schema"
KUBERNETES = ("1.30", "1.37")
"""The oldest that the chart is for, and a late one."""

CUSTOM = {
    "ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1",
    "ServiceMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
    "HTTPRoute": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1",
}
ALWAYS = {
    "ConfigMap",
    "Deployment",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Secret",
    "Service",
    "ServiceAccount",
}


@pytest.fixture(scope="module")
def least() -> dict[str, Manifest]:
    return render(LEAST)


@pytest.fixture(scope="module")
def full() -> dict[str, Manifest]:
    return render(everything())


@pytest.mark.parametrize("values", [LEAST, everything()], ids=["least", "full"])
def test_helm_has_nothing_against_the_chart(values: dict[str, Any]) -> None:
    report = helm().chart.lint(str(CHART), values, strict=True)
    assert report["errors"] == []
    assert [note["error"] for note in report["messages"]] == ["icon is recommended"]


def test_what_is_made(least: dict[str, Manifest], full: dict[str, Manifest]) -> None:
    assert least.keys() == ALWAYS
    assert full.keys() == ALWAYS - {"Secret"} | {"PersistentVolumeClaim", *CUSTOM}


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_it(
    least: dict[str, Manifest], full: dict[str, Manifest], version: str
) -> None:
    for manifest in [*least.values(), *full.values()]:
        if manifest["kind"] not in CUSTOM:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_kubernetes_schema_notices_a_slip(least: dict[str, Manifest]) -> None:
    slip = json.loads(json.dumps(least["Deployment"]))
    slip["spec"]["template"]["spec"]["terminationGracePeriod"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(slip, KUBERNETES[0], strict=True)


def check_custom(manifests: dict[str, Manifest], folder: Path) -> str:
    """What the types and the schemas of custom resources have against manifests."""
    modules = SCHEMA / "node_modules"
    if not (modules / "@kubernetes-models").is_dir() or shutil.which("node") is None:
        pytest.skip("the types are not installed (npm install --prefix tests/ops/schema)")
    (folder / "node_modules").symlink_to(modules)
    (folder / "package.json").write_text('{"type": "module"}')
    lines = []
    for kind, module in CUSTOM.items():
        lines.append(f'import {{ {kind}, type I{kind} }} from "{module}/{kind}";')
        lines.append(f"const a{kind}: I{kind} = {json.dumps(manifests[kind])};")
        lines.append(f"new {kind}(a{kind}).validate();")
    (folder / "check.ts").write_text("\n".join(lines))
    compiler = [modules / ".bin" / "tsc", "--strict", "--skipLibCheck", "--module", "nodenext"]
    compiled = subprocess.run([*compiler, "check.ts"], cwd=folder, capture_output=True, text=True)
    if compiled.returncode:
        return compiled.stdout
    run = subprocess.run(["node", "check.js"], cwd=folder, capture_output=True, text=True)
    return run.stderr


def test_keda_prometheus_and_gateways_take_it(full: dict[str, Manifest], tmp_path: Path) -> None:
    assert check_custom(full, tmp_path) == ""


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("ScaledObject", {"pollingIntervall": 3}),
        ("HTTPRoute", {"hostnames": ["no host"]}),
    ],
)
def test_custom_schemas_notice_a_slip(
    full: dict[str, Manifest], tmp_path: Path, kind: str, change: Manifest
) -> None:
    changed = {**full[kind], "spec": {**full[kind]["spec"], **change}}
    assert next(iter(change)) in check_custom({**full, kind: changed}, tmp_path)
