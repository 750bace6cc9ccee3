# SPDX-License-Identifier: Apache-2.0
"""The Compose file: valid, whole, and in agreement with what lies beside it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from appliance.server import ANSWER_SECONDS
from tests.ops.files import OPS, load

SCHEMA = Path(__file__).parent / "schema/node_modules/dclint/schemas/compose.schema.json"
FILES = ("compose.yaml", "compose.cuda.yaml")
NO_SHELL = {"collector", "jaeger"}
"""Services whose images have no program that a health check could run."""

_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])((?:[^{}]|\$\{[^{}]*\})*))?\}")


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = load("compose.yaml")["services"]
    return found


def interpolated(text: str, variables: dict[str, str]) -> str:
    """A text as Compose reads it: ``${NAME}``, ``${NAME:-DEFAULT}`` and ``${NAME:?MESSAGE}``."""

    def value(found: re.Match[str]) -> str:
        name, operator, rest = found.groups()
        if variables.get(name):
            return variables[name]
        assert operator != "?", f"{name}: {rest}"
        return interpolated(rest or "", variables)

    return _VARIABLE.sub(value, text)


def example() -> dict[str, str]:
    """Variables of the example."""
    lines = (OPS / "compose.env.example").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def mounted() -> list[tuple[str, str, Path]]:
    """Service, path in the container and file here, of each that is mounted."""
    found = []
    for name, service in services().items():
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            if source.startswith("."):
                found.append((name, target, (OPS / source).resolve()))
    return found


@pytest.mark.parametrize("name", FILES)
def test_it_is_what_the_specification_allows(name: str) -> None:
    if not SCHEMA.is_file():
        pytest.skip("the schema is not installed (npm install --prefix tests/ops/schema)")
    validator = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert [error.message for error in validator.iter_errors(load(name))] == []
    slip = load(name)
    slip["services"]["appliance"]["build"]["argss"] = {}
    assert list(validator.iter_errors(slip))


def compose() -> list[str]:
    """Docker Compose, or a skipped test."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is not None:
            done = subprocess.run([*command, "version"], capture_output=True)
            if done.returncode == 0:
                return command
    pytest.skip("Docker Compose is not installed")


def test_compose_itself_takes_it() -> None:
    given = {name: value or "secret" for name, value in example().items()}
    files = [argument for name in FILES for argument in ("--file", str(OPS / name))]
    done = subprocess.run(
        [*compose(), *files, "config", "--quiet"],
        env={"PATH": os.environ["PATH"], **given},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_files_that_it_names_are_there() -> None:
    for _, _, file in mounted():
        assert file.is_file(), file
    context = (OPS / services()["appliance"]["build"]["context"]).resolve()
    assert (context / "Dockerfile").is_file()


def test_services_that_it_names_are_there() -> None:
    text = (OPS / "compose.yaml").read_text(encoding="utf-8")
    text += "".join(path.read_text(encoding="utf-8") for path in (OPS / "compose").iterdir())
    hosts = set(re.findall(r"https?://([a-z]+):\d+", text)) | {"postgres", "jaeger"}
    assert hosts <= services().keys()
    assert "@postgres/" in services()["appliance"]["environment"]["APPLIANCE_DATABASE_URL"]
    for service in services().values():
        assert set(service.get("depends_on", {})) <= services().keys()


def test_volumes_and_secrets_are_declared_and_used() -> None:
    declared = load("compose.yaml")
    named = {
        volume.partition(":")[0]
        for service in services().values()
        for volume in service.get("volumes", [])
        if not volume.startswith(".")
    }
    assert named == set(declared["volumes"])
    secrets = {name for service in services().values() for name in service.get("secrets", [])}
    assert secrets == set(declared["secrets"])


def test_no_secret_has_to_be_written_to_a_read_only_root() -> None:
    # Compose refuses that, but no earlier than at the start.
    assert not any(
        service.get("read_only") for service in services().values() if "secrets" in service
    )


def test_variables_are_those_of_the_example() -> None:
    text = "\n".join(
        line
        for line in (OPS / "compose.yaml").read_text(encoding="utf-8").splitlines()
        if not line.strip().startswith("#")
    )
    needed = set(re.findall(r"\$\{(\w+):\?", text))
    needed |= {secret["environment"] for secret in load("compose.yaml")["secrets"].values()}
    assert needed <= example().keys()
    assert not any(example().values())
    with pytest.raises(AssertionError, match=r"POSTGRES_PASSWORD: set it in ops/\.env"):
        interpolated(text, {"APPLIANCE_API_KEY": "a"})


def test_models_in_the_image_are_served_unless_others_are_named() -> None:
    server = services()["appliance"]
    models = server["environment"]["APPLIANCE_MODELS"]
    assert interpolated(models, {}) == ""  # which counts as unset
    assert interpolated(models, {"APPLIANCE_MODELS": "c"}) == "c"
    assert interpolated(server["build"]["args"]["MODELS"], {"APPLIANCE_BAKED_MODELS": "a"}) == "a"


def test_every_service_that_can_tell_is_asked_how_it_is() -> None:
    without = {name for name, service in services().items() if "healthcheck" not in service}
    assert without == {"appliance", *NO_SHELL}  # the server's is in its image
    dockerfile = (OPS.parent / "Dockerfile").read_text(encoding="utf-8")
    assert "\nHEALTHCHECK " in dockerfile


def test_only_the_server_is_open_to_the_network() -> None:
    ports = {name: service["ports"] for name, service in services().items() if "ports" in service}
    open_ones = {
        name for name, given in ports.items() if not all(p.startswith("127.0.0.1:") for p in given)
    }
    assert open_ones == {"appliance"}


def test_the_server_has_a_read_only_root_no_capabilities_and_time_to_drain() -> None:
    server = services()["appliance"]
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert server["tmpfs"] == ["/tmp"]
    targets = {volume.split(":")[1] for volume in server["volumes"]}
    assert targets == {"/cache", "/data"}
    drain = float(server["environment"]["APPLIANCE_DRAIN_TIMEOUT_SECONDS"])
    assert float(server["stop_grace_period"].removesuffix("s")) >= drain + ANSWER_SECONDS


def test_prometheus_is_set_up_as_it_is_elsewhere() -> None:
    here, there = load("compose/prometheus.yaml"), load("prometheus.yaml")
    [job], [other] = here.pop("scrape_configs"), there.pop("scrape_configs")
    assert here == there
    [found] = job.pop("dns_sd_configs")
    assert found["names"] == ["appliance"]
    assert found["port"] == 8080
    del other["static_configs"]
    assert job.pop("authorization") == {"credentials_file": "/run/secrets/api_key"}
    del other["authorization"]
    assert job == other
    paths = {path for service, path, _ in mounted() if service == "prometheus"}
    assert {f"/etc/prometheus/{rule}" for rule in here["rule_files"]} < paths


def test_prometheus_itself_takes_it(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian's package prometheus)")
    for service, path, file in mounted():
        if service == "prometheus":
            text = file.read_text(encoding="utf-8")
            key = str(tmp_path / "key")
            (tmp_path / Path(path).name).write_text(text.replace("/run/secrets/api_key", key))
    (tmp_path / "key").write_text("a-key")
    command = [promtool, "check", "config", str(tmp_path / "prometheus.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_traces_go_through_the_collector_to_jaeger() -> None:
    text = (OPS / "otel-collector.yaml").read_text(encoding="utf-8")
    read = set(re.findall(r"\$\{env:(\w+):-", text))
    assert services()["collector"]["environment"].keys() == read
    assert services()["collector"]["environment"]["LISTEN"] == "0.0.0.0"
    server = services()["appliance"]["environment"]
    assert server["APPLIANCE_OTLP_ENDPOINT"] == "http://collector:4317"
    # Prometheus reads the server itself: metrics that come twice count twice.
    assert server["OTEL_METRICS_EXPORTER"] == "none"


def test_grafana_finds_its_source_and_its_dashboard() -> None:
    files = {path: file for service, path, file in mounted() if service == "grafana"}
    [provider] = load("compose/grafana-dashboards.yaml")["providers"]
    [board] = [path for path in files if path.startswith(provider["options"]["path"])]
    assert files[board] == OPS / "grafana.json"
    home = services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == board
    sources = load("compose/grafana-datasources.yaml")["datasources"]
    assert {source["type"] for source in sources} == {"prometheus", "jaeger"}
    interval = yaml.safe_load((OPS / "compose/prometheus.yaml").read_text())["global"]
    assert sources[0]["jsonData"]["timeInterval"] == interval["scrape_interval"]
