# SPDX-License-Identifier: Apache-2.0
"""The Helm chart, rendered by Helm itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.ops.files import OPS

CHART = OPS / "helm" / "embeddings-appliance"
NAMESPACE = "ml"
RELEASE = "demo"
NAME = f"{RELEASE}-embeddings-appliance"

Manifest = dict[str, Any]

LEAST = {"secrets": {"apiKey": "a-key"}}
"""What has to be set, and nothing else."""


def everything() -> dict[str, Any]:
    """Values that turn on all there is."""
    found: dict[str, Any] = yaml.safe_load((CHART / "ci" / "full-values.yaml").read_text())
    return found


def helm() -> Any:
    """Helm's library, or a skipped test."""
    return pytest.importorskip("helm_python", reason="Helm's library has no wheel for this system")


def render(values: dict[str, Any]) -> dict[str, Manifest]:
    """The manifests by their kind, of which there is one each."""
    with helm().Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name=RELEASE, namespace=NAMESPACE)
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    found = [manifest for text in texts for manifest in yaml.safe_load_all(text) if manifest]
    kinds = {manifest["kind"]: manifest for manifest in found}
    assert len(kinds) == len(found)
    return kinds


def refusal(values: dict[str, Any]) -> str:
    """What Helm has against values."""
    with pytest.raises(helm().HelmError) as raised:
        render(values)
    return str(raised.value)


def settings(manifests: dict[str, Manifest]) -> dict[str, Any]:
    """The server's configuration file."""
    found: dict[str, Any] = json.loads(manifests["ConfigMap"]["data"]["appliance.json"])
    return found


def pod(manifests: dict[str, Manifest]) -> Manifest:
    """A pod's specification."""
    found: Manifest = manifests["Deployment"]["spec"]["template"]["spec"]
    return found


def container(manifests: dict[str, Manifest]) -> Manifest:
    """Its container."""
    [found] = pod(manifests)["containers"]
    assert isinstance(found, dict)
    return found
