# SPDX-License-Identifier: Apache-2.0
"""What is in ``ops/ray`` for those who deploy: Ray, Kubernetes and the server take it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import kubernetes_validate
import pytest
import yaml

from appliance.faults import SettingsFault
from appliance.server import KEEP_ALIVE_SECONDS
from tests.ops.files import OPS, load

sys.path.insert(0, str(OPS / "ray"))

pytest.importorskip("ray.serve", reason="Ray is not installed (the extra `ray`)")

KUBERNETES = "1.30"
SERVICE = load("ray/rayservice.yaml")
CLUSTER = SERVICE["spec"]["rayClusterConfig"]
CONFIGS = {
    "serve.yaml": load("ray/serve.yaml"),
    "rayservice.yaml": yaml.safe_load(SERVICE["spec"]["serveConfigV2"]),
}
TOKENS = {"APPLIANCE_DATABASE_URL": "postgresql://user@host/name"}


def build(args: dict[str, Any]) -> Any:
    from embeddings_serve.app import build

    return build(args)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLIANCE_API_KEYS", "a-key")


@pytest.mark.parametrize("name", CONFIGS)
def test_ray_and_the_server_take_the_config(name: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(CONFIGS[name])
    [application] = config.applications
    assert application.import_path == "embeddings_serve.app:build"
    assert config.http_options.keep_alive_timeout_s == KEEP_ALIVE_SECONDS
    built = build(application.args)
    replicas = built._bound_deployment.init_args[0]._bound_deployment
    front = built._bound_deployment
    assert {each.name for each in application.deployments} == {front.name, replicas.name}
    options = replicas.ray_actor_options
    assert (options["num_cpus"], options["num_gpus"]) == (
        application.args["cpus"],
        application.args["gpus"],
    )
    queue = application.args["config"].get("queue")
    assert set(options.get("resources", {})) == ({queue} if queue else set())


def test_the_code_has_the_defaults_that_the_config_file_shows() -> None:
    from embeddings_serve.arguments import Arguments

    [application] = CONFIGS["serve.yaml"]["applications"]
    shown = Arguments(**application["args"]).model_dump(exclude={"config"})
    assert shown == Arguments().model_dump(exclude={"config"})
    front = build({})._bound_deployment
    replicas = front.init_args[0]._bound_deployment
    for shown in application["deployments"]:
        found = {front.name: front, replicas.name: replicas}[shown["name"]]._deployment_config
        assert found.max_ongoing_requests == shown["max_ongoing_requests"]
        for name in ("min_replicas", "max_replicas", "target_ongoing_requests"):
            assert getattr(found.autoscaling_config, name) == shown["autoscaling_config"][name]


@pytest.mark.parametrize(
    ("args", "variables", "told"),
    [
        ({"gpu": 1}, {}, "args.gpu"),
        ({"models_per_replica": 0}, {}, "args.models_per_replica"),
        ({"config": {"modls": []}}, {}, "args.config.modls"),
        ({"config": {"api_keys": ["x"]}}, {}, "args.config.api_keys"),
        ({}, {"APPLIANCE_API_KEYS": ""}, "auth: on Ray a key is asked for"),
        ({"config": {"data_dir": "data"}}, {}, "data_dir: replicas share"),
        ({"config": {"idle_time_limit_hours": 1}}, {}, "idle_time_limit_hours: replicas come"),
        ({"config": {"tls_certificate": "a.pem"}}, {}, "tls_certificate: Ray's proxies"),
    ],
)
def test_what_does_not_go_with_ray_is_refused_in_a_line(
    args: dict[str, Any],
    variables: dict[str, str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsFault) as raised:
        build(args)
    assert any(fault.startswith(told) for fault in raised.value.faults), raised.value.faults


@pytest.mark.parametrize(
    ("config", "variables"),
    [
        ({}, TOKENS),
        ({"data_dir": "/shared"}, TOKENS),
        ({"auth": "none"}, {}),
    ],
)
def test_replicas_know_the_same_keys(
    config: dict[str, Any], variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPLIANCE_API_KEYS", "")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert build({"config": config})


def test_the_front_needs_no_torch() -> None:
    """It is to start fast and take little memory."""
    check = "import sys, embeddings_serve.front; print('torch' in sys.modules)"
    path = os.pathsep.join([str(OPS / "ray"), str(OPS.parent)])
    done = subprocess.run(
        [sys.executable, "-c", check],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


def pods() -> dict[str, Any]:
    [workers] = CLUSTER["workerGroupSpecs"]
    return {"head": CLUSTER["headGroupSpec"]["template"], "workers": workers["template"]}


@pytest.mark.parametrize("kind", ["head", "workers"])
def test_kubernetes_takes_the_pods(kind: str) -> None:
    spec = pods()[kind]["spec"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    dockerfile = (OPS.parent / "Dockerfile").read_text(encoding="utf-8")
    context = spec["securityContext"]
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}" in dockerfile
    [container] = spec["containers"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {"/tmp", "/data", "/cache"}


def test_a_queue_means_the_same_everywhere() -> None:
    [application] = CONFIGS["rayservice.yaml"]["applications"]
    queue = application["args"]["config"]["queue"]
    [workers] = CLUSTER["workerGroupSpecs"]
    assert SERVICE["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queue
    # Quoted twice, as it goes through a shell.
    assert json.loads(json.loads(workers["rayStartParams"]["resources"])) == {queue: 1}
    [container] = workers["template"]["spec"]["containers"]
    [replicas] = [each for each in application["deployments"] if each["name"] == "Embeddings"]
    assert int(container["resources"]["limits"]["nvidia.com/gpu"]) == application["args"]["gpus"]
    assert workers["maxReplicas"] == replicas["autoscaling_config"]["max_replicas"]


def test_the_cluster_has_the_version_of_ray_that_is_tested() -> None:
    constraints = (OPS.parent / "constraints.txt").read_text(encoding="utf-8")
    assert f"ray=={CLUSTER['rayVersion']}" in constraints.splitlines()


def test_ray_tells_nobody_how_it_is_used() -> None:
    for template in pods().values():
        [container] = template["spec"]["containers"]
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
    package = OPS / "ray" / "embeddings_serve" / "__init__.py"
    assert 'setdefault("RAY_USAGE_STATS_ENABLED", "0")' in package.read_text(encoding="utf-8")
