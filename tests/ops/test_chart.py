# SPDX-License-Identifier: Apache-2.0
"""The Helm chart: what it makes does what its values say, and fits the server and the image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import appliance
from appliance.configuration import load_settings
from appliance.faults import SettingsFault
from appliance.server import ANSWER_SECONDS
from tests.ops.charts import (
    CHART,
    LEAST,
    NAME,
    NAMESPACE,
    Manifest,
    container,
    everything,
    pod,
    refusal,
    render,
    settings,
)
from tests.ops.files import matchers, metric_names, rules


@pytest.fixture(scope="module")
def least() -> dict[str, Manifest]:
    return render(LEAST)


@pytest.fixture(scope="module")
def full() -> dict[str, Manifest]:
    return render(everything())


@pytest.mark.parametrize("values", [LEAST, everything()], ids=["least", "full"])
def test_the_server_takes_its_settings(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "appliance.json"
    file.write_text(json.dumps(settings(render(values))))
    read = load_settings(config=file)
    assert read.name == values.get("config", {}).get("name", "demo")
    assert (read.queue, read.route) == (values.get("queue"), values.get("route"))
    file.write_text(json.dumps({**settings(render(values)), "drain_seconds": 3}))
    with pytest.raises(SettingsFault):
        load_settings(config=file)


@pytest.mark.parametrize("values", [LEAST, everything()], ids=["least", "full"])
def test_a_pod_has_time_to_drain(values: dict[str, Any]) -> None:
    manifests = render(values)
    seconds = pod(manifests)["terminationGracePeriodSeconds"]
    hook = container(manifests)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert seconds >= hook + settings(manifests)["drain_timeout_seconds"] + ANSWER_SECONDS


def test_probes_ask_what_is_meant_for_them(least: dict[str, Manifest]) -> None:
    asked = {
        name: container(least)[f"{name}Probe"]["httpGet"]
        for name in ("startup", "liveness", "readiness")
    }
    assert asked == {
        "startup": {"path": "/health", "port": "http"},
        "liveness": {"path": "/health", "port": "http"},
        "readiness": {"path": "/ready", "port": "http"},
    }


def test_pods_can_do_little(full: dict[str, Manifest]) -> None:
    assert container(full)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    context = pod(full)["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    dockerfile = (CHART.parents[2] / "Dockerfile").read_text(encoding="utf-8")
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}" in dockerfile
    assert pod(full)["automountServiceAccountToken"] is False


def test_what_the_image_writes_to_is_mounted(least: dict[str, Manifest]) -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in container(least)["volumeMounts"]}
    assert mounts.keys() == {"/etc/appliance", "/cache", "/data", "/tmp"}
    assert set(mounts.values()) == {volume["name"] for volume in pod(least)["volumes"]}
    dockerfile = (CHART.parents[2] / "Dockerfile").read_text(encoding="utf-8")
    assert 'VOLUME ["/cache", "/data"]' in dockerfile


def test_secrets_come_from_the_secret(least: dict[str, Manifest]) -> None:
    given = {
        "secrets": {"apiKey": "a-key", "databaseUrl": "postgresql://u:p@h/d", "hfToken": "hf_x"}
    }
    manifests = render(given)
    assert manifests["Secret"]["stringData"] == {
        "api-key": "a-key",
        "database-url": "postgresql://u:p@h/d",
        "hf-token": "hf_x",
    }
    variables = {each["name"]: each for each in container(manifests)["env"]}
    read = {
        name: each["valueFrom"]["secretKeyRef"]
        for name, each in variables.items()
        if "valueFrom" in each
    }
    assert {name: reference["key"] for name, reference in read.items()} == {
        "APPLIANCE_API_KEYS": "api-key",
        "APPLIANCE_DATABASE_URL": "database-url",
        "HF_TOKEN": "hf-token",
    }
    rest = {name: manifest for name, manifest in manifests.items() if name != "Secret"}
    assert not any(secret in json.dumps(rest) for secret in ("a-key", "u:p@h", "hf_x"))


def test_a_change_of_settings_makes_new_pods(least: dict[str, Manifest]) -> None:
    def checksum(manifests: dict[str, Manifest]) -> Any:
        return manifests["Deployment"]["spec"]["template"]["metadata"]["annotations"]

    assert checksum(render(LEAST)) == checksum(least)
    assert checksum(render({**LEAST, "config": {"log_json": True}})) != checksum(least)
    assert checksum(render({"secrets": {"apiKey": "other"}})) != checksum(least)


def test_queue_places_pods(least: dict[str, Manifest], full: dict[str, Manifest]) -> None:
    label = "kueue.x-k8s.io/queue-name"
    assert full["Deployment"]["metadata"]["labels"][label] == "gpu-small"
    assert pod(full)["nodeSelector"]["cloud.google.com/gke-nodepool"] == "gpu-small"
    assert label not in least["Deployment"]["metadata"]["labels"]
    assert "nodeSelector" not in pod(least)


def test_an_ingress_of_ones_own_has_its_route_among_the_settings() -> None:
    made = render({**LEAST, "config": {"route": "https://ai.example.com/embeddings"}})
    assert settings(made)["route"] == "https://ai.example.com/embeddings"
    assert "HTTPRoute" not in made
    same = {"queue": "gpu-small", "config": {"queue": "gpu-small"}}
    assert settings(render({**LEAST, **same}))["queue"] == "gpu-small"


def test_gpus_are_asked_for(least: dict[str, Manifest], full: dict[str, Manifest]) -> None:
    assert container(full)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" in [each["key"] for each in pod(full)["tolerations"]]
    assert "nvidia.com/gpu" not in container(least)["resources"]["limits"]


@pytest.mark.parametrize(
    ("route", "hosts", "path"),
    [
        ("https://ai.example.com", ["ai.example.com"], "/"),
        ("https://ai.example.com:8443/", ["ai.example.com"], "/"),
        ("https://ai.example.com/team/embeddings/", ["ai.example.com"], "/team/embeddings"),
        ("/embeddings", None, "/embeddings"),
    ],
)
def test_route_is_published(route: str, hosts: list[str] | None, path: str) -> None:
    made = render({**LEAST, "route": route, "gateway": {"parents": [{"name": "public"}]}})
    spec = made["HTTPRoute"]["spec"]
    [rule] = spec["rules"]
    assert spec.get("hostnames") == hosts
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": path}}]
    rewrite = {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}
    expected = [] if path == "/" else [{"type": "URLRewrite", "urlRewrite": rewrite}]
    assert rule.get("filters", []) == expected
    assert rule["backendRefs"] == [
        {"name": NAME, "port": made["Service"]["spec"]["ports"][0]["port"]}
    ]


def test_scaling_asks_for_a_metric_that_there_is(full: dict[str, Manifest]) -> None:
    [trigger] = full["ScaledObject"]["spec"]["triggers"]
    query = trigger["metadata"]["query"]
    assert metric_names(query) == {"appliance_queue_tokens"}
    known = {name for rule in rules("alerts.yaml") for name in metric_names(rule["expr"])}
    assert metric_names(query) <= known  # which tests hold against a running server
    assert set(matchers(query)) == {
        ("appliance_queue_tokens", "job", "embeddings"),
        ("appliance_queue_tokens", "namespace", NAMESPACE),
        ("appliance_queue_tokens", "service", full["Service"]["metadata"]["name"]),
    }
    assert full["ScaledObject"]["spec"]["scaleTargetRef"]["name"] == NAME
    assert "replicas" not in full["Deployment"]["spec"]  # which would undo what KEDA has done


def test_prometheus_reads_under_the_job_that_alerts_ask_for(full: dict[str, Manifest]) -> None:
    [endpoint] = full["ServiceMonitor"]["spec"]["endpoints"]
    asked = {
        value
        for rule in rules("alerts.yaml", "recording.yaml")
        for _, label, value in matchers(rule["expr"])
        if label == "job"
    }
    assert asked == {relabeling["replacement"] for relabeling in endpoint["relabelings"]}
    assert endpoint["port"] == full["Service"]["spec"]["ports"][0]["name"]
    labels = full["Service"]["metadata"]["labels"].items()
    assert full["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items() <= labels


def test_selectors_find_the_pods(full: dict[str, Manifest]) -> None:
    labels = full["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        full["Deployment"]["spec"]["selector"]["matchLabels"],
        full["Service"]["spec"]["selector"],
        full["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        full["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels for selector in selectors)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "secrets.apiKey"),
        ({**LEAST, "replicas": 2}, "secrets.databaseUrl"),
        ({**LEAST, "autoscaling": {"enabled": True}}, "secrets.databaseUrl"),
        (
            {"secrets": {"existing": "s"}, "replicas": 2, "modelCache": {"enabled": True}},
            "modelCache.accessMode",
        ),
        ({**LEAST, "route": "https://a.example.com"}, "gateway.parents"),
        ({**LEAST, "route": "a.example.com"}, "route"),
        (
            {
                **LEAST,
                "route": "/embeddings",
                "gateway": {"parents": [{"name": "public"}]},
                "config": {"route": "/other"},
            },
            "config.route is not what route is",
        ),
        ({**LEAST, "route": "https://u:p@a.example.com"}, "route"),
        (
            {**LEAST, "queue": "gpu", "config": {"queue": "cpu"}},
            "config.queue is not what queue is",
        ),
        ({**LEAST, "config": {"queue": "cpu"}}, "config.queue is not what queue is"),
        ({**LEAST, "queue": "gpu/small"}, "queue"),
        ({**LEAST, "nodePoolLabel": "pool"}, "queue"),
        ({**LEAST, "config": {"port": 9000}}, "config.port"),
        ({**LEAST, "config": {"api_keys": ["x"]}}, "config.api_keys"),
        ({**LEAST, "replicass": 2}, "replicass"),
    ],
)
def test_values_that_cannot_work_are_refused(values: dict[str, Any], told: str) -> None:
    assert told in refusal(values)


def test_versions_agree() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["version"] == chart["appVersion"] == appliance.__version__
