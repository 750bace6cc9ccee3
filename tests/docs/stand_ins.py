# SPDX-License-Identifier: Apache-2.0
"""Commands of the docs that cannot be run here, why, and what is checked of them instead."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from typing import Any, NamedTuple
from unittest import mock

import pytest
import yaml

from appliance.cli import main
from compat.conformance.__main__ import main as run_conformance
from tests.docs.commands import Call
from tests.docs.documents import ROOT
from tests.ops.charts import CHART, helm, render


class StandIn(NamedTuple):
    """What is done with a command in place of running it."""

    reason: str
    check: Callable[[Call], None]


def run_here(call: Call, arguments: list[str]) -> None:
    """Run ``appliance`` in this process, with the variables and the folder that the call has."""
    told = io.StringIO()
    with (
        mock.patch.dict(os.environ, call.environment, clear=True),
        chdir(call.folder),
        redirect_stderr(told),
        redirect_stdout(told),
    ):
        code = main(arguments)
    assert code == 0, f"{arguments}: {told.getvalue()}"


def check_settings(call: Call, arguments: list[str]) -> None:
    """``appliance serve`` takes these flags."""
    run_here(call, ["config", "validate", *arguments])


def check_server(call: Call) -> None:
    """The settings are good."""
    check_settings(call, call.arguments)


def check_appliance(call: Call) -> None:
    """The flags and settings are good; what neither serves nor needs Ray is run."""
    if call.arguments[0] == "serve":
        check_settings(call, call.arguments[1:])
        return
    with mock.patch("appliance.bulk.ray_command.embed_with_ray", return_value=0) as embed:
        run_here(call, call.arguments)
    embed.assert_called_once()


def check_tests(call: Call) -> None:
    """The script is there, and bash can read it."""
    script = ROOT / "scripts" / call.program
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


def check_python(call: Call) -> None:
    """The module or script is there, and knows the flags."""
    name, *arguments = call.arguments
    if name == "-m":
        assert arguments[0] == "compat.conformance"
        with redirect_stdout(io.StringIO()) as told:
            assert run_conformance([*arguments[1:], "--list"]) == 0
        assert told.getvalue()
        return
    command = [sys.executable, str(call.file(name)), "--help"]
    done = subprocess.run(command, env=call.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_known(arguments, done.stdout)


def check_pip(call: Call) -> None:
    """The extras are declared."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    action, *arguments = call.arguments
    assert action == "install"
    for argument in arguments:
        if not argument.startswith("-"):
            name, *extras = re.split(r"[\[\],]+", argument.strip("]"))
            assert name in (".", project["name"])
            assert {*extras} <= project["optional-dependencies"].keys()


def check_docker(call: Call) -> None:
    """Docker knows the flags, what they name is there, and the server takes what follows."""
    action, *arguments = call.arguments
    if action == "compose":
        for file in call.values("--file"):
            assert "services" in yaml.safe_load(call.file(file).read_text(encoding="utf-8"))
        return
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    if action == "build":
        assert arguments.pop() == "."
        for argument in call.values("--build-arg"):
            assert f"\nARG {argument.partition('=')[0]}" in dockerfile
    else:
        assert action == "run"
        end = arguments.index("embeddings-appliance")
        check_settings(call, arguments[end + 1 :])
        arguments = arguments[:end]
        for volume in call.values("--volume"):
            assert volume.rpartition(":")[2] in dockerfile
    if shutil.which("docker"):
        told = subprocess.run(["docker", action, "--help"], capture_output=True, text=True)
        assert_known(arguments, told.stdout)


def check_helm(call: Call) -> None:
    """The chart takes the values, and has nothing that Helm minds."""
    action, *arguments = call.arguments
    charts = [name for name in arguments if name.startswith("ops/")]
    assert call.file(charts[0]).name == CHART.name
    values: dict[str, Any] = {}
    for file in call.values("--values"):
        values |= yaml.safe_load(call.file(file).read_text(encoding="utf-8"))
    for setting in call.values("--set"):
        _merge(values, helm().parse_set_string(setting))
    if action == "lint":
        strict = "--strict" in arguments
        assert helm().chart.lint(str(CHART), values, strict=strict)["errors"] == []
        return
    assert action in ("install", "upgrade")
    manifests = render(values)
    image = manifests["Deployment"]["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == f"{values['image']['repository']}:{values['image']['tag']}"


def _merge(values: dict[str, Any], others: dict[str, Any]) -> None:
    for name, value in others.items():
        if isinstance(value, dict) and isinstance(values.get(name), dict):
            _merge(values[name], value)
        else:
            values[name] = value


def check_prometheus(call: Call) -> None:
    """The configuration is there, and so are the rules and the token's file that it names."""
    file = call.file(call.value("--config.file"))
    found = yaml.safe_load(file.read_text(encoding="utf-8"))
    named = [*found["rule_files"]]
    named += [job["authorization"]["credentials_file"] for job in found["scrape_configs"]]
    for name in named:
        assert (file.parent / name).read_text(encoding="utf-8").strip()


def check_promtool(call: Call) -> None:
    """The file is there; ``tests/ops/test_rules.py`` runs the tool where it is installed."""
    assert call.arguments[:-1] in (["check", "config"], ["test", "rules"])
    assert yaml.safe_load(call.file(call.arguments[-1]).read_text(encoding="utf-8"))


def check_collector(call: Call) -> None:
    """The configuration is there, and reads the variables that are set."""
    text = call.file(call.value("--config")).read_text(encoding="utf-8")
    read = set(re.findall(r"\$\{env:(\w+):-", text))
    given = {name for name in call.environment if name.endswith(("_ENDPOINT", "_INSECURE"))}
    assert given <= read


def check_curl(call: Call) -> None:
    """Something that the docs speak of is at that port: here, the collector."""
    [url] = [argument for argument in call.arguments if argument.startswith("http")]
    port = url.removeprefix("http://127.0.0.1")
    assert f"}}{port}\n" in (ROOT / "ops/otel-collector.yaml").read_text(encoding="utf-8")


def check_kubernetes(call: Call) -> None:
    """What is applied is there, and ``kubectl`` would create what is created."""
    if call.arguments[0] == "apply":
        text = call.file(call.value("--filename")).read_text(encoding="utf-8")
        assert all("kind" in manifest for manifest in yaml.safe_load_all(text))
        return
    assert call.arguments[0] == "create"
    if shutil.which("kubectl"):
        command = ["kubectl", *call.arguments, "--dry-run=client", "--output=name"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def check_copy(call: Call) -> None:
    """What is to be copied is there."""
    for name in call.arguments[:-1]:
        assert call.file(name).is_file()


def check_serve(call: Call) -> None:
    """Ray takes the file; ``tests/ops/test_ray_serve.py`` has the application built of it."""
    schema = pytest.importorskip("ray.serve.schema", reason="Ray is not installed")
    action, name = call.arguments
    assert action in ("run", "deploy")
    assert schema.ServeDeploySchema.model_validate(yaml.safe_load(call.file(name).read_text()))


def assert_known(arguments: list[str], told: str) -> None:
    """Each flag is told of by a command's help."""
    flags = [name.partition("=")[0] for name in arguments if name.startswith("--")]
    assert not [flag for flag in flags if not re.search(rf"{re.escape(flag)}(?![\w-])", told)], told


STAND_INS: dict[str, StandIn] = {
    "appliance": StandIn("`serve` does not end, `embed --ray` needs a cluster", check_appliance),
    "cp": StandIn("copies to Grafana's folder", check_copy),
    "curl": StandIn("asks the collector, which is not installed", check_curl),
    "docker": StandIn("needs an engine; tests/ops reads the Dockerfile and Compose", check_docker),
    "helm": StandIn("installs on a cluster; Helm's library renders the chart", check_helm),
    "kubectl": StandIn(
        "needs a cluster; tests/ops/test_ray_serve.py reads the file", check_kubernetes
    ),
    "otelcol-contrib": StandIn("Debian, PyPI and npm do not have it", check_collector),
    "pip": StandIn("scripts/test.sh has installed the extra", check_pip),
    "prometheus": StandIn("does not end; tests/ops/test_watching.py runs it", check_prometheus),
    "promtool": StandIn("tests/ops/test_rules.py runs it", check_promtool),
    "python": StandIn("takes minutes; the matrix is run by test_conformance.py", check_python),
    "scripts/serve.sh": StandIn("does not end; its settings are checked", check_server),
    "scripts/test.sh": StandIn("it is what runs this", check_tests),
    "serve": StandIn("does not end; tests/ray serves by a file like it", check_serve),
}
