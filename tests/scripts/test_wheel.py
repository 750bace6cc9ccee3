# SPDX-License-Identifier: Apache-2.0
"""The wheel: what is in it, and that it runs where the checkout is not to be seen.

``scripts/prove_wheel.py`` installs it with all that it depends on, which takes minutes.
"""

from __future__ import annotations

import email
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import prove_wheel
import pytest
from container_lib.context import files

import appliance

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prove_wheel.build_wheel(tmp_path_factory.mktemp("dist"))


def test_all_of_the_packages_is_in_it_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    packages = ("appliance", "compat", "ops")
    sources = {
        str(path).removeprefix("ops/ray/") for path in files(ROOT) if path.parts[0] in packages
    }
    assert names == sources
    assert {"appliance/data/calibration.txt", "appliance/py.typed"} <= names


def test_it_tells_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [about] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        [licence] = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
        metadata = email.message_from_bytes(archive.read(about))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert metadata["Version"] == appliance.__version__
    assert wheel.name == f"embeddings_appliance-{appliance.__version__}-py3-none-any.whl"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert {"clearml", "embedded", "ray"} <= set(metadata.get_all("Provides-Extra", []))
    assert str(metadata.get_payload()).startswith("# Embeddings appliance\n")


def test_it_serves_where_there_is_no_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    subprocess.run([*install, "--target", site, wheel], check=True)
    # Without `site`, the links to checkouts that lie beside installed packages are not followed.
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(site), sysconfig.get_path("purelib")]),
    }
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-S", "-c", "import appliance, compat; print(appliance, compat)"]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    assert done.stdout.count(str(site)) == 2
    prove_wheel.prove([sys.executable, "-S", str(site / "bin/appliance")], work, environment)
