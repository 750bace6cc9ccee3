# SPDX-License-Identifier: Apache-2.0
"""The README's commands do what it says, word for word."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from compat.conformance.clients import CLIENTS, node
from tests.clients import reference
from tests.conftest import REAL_MODEL, RunningServer, run_process

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
JAVASCRIPT = re.findall(r"```js\n(.*?)```", README, re.DOTALL)
JAVASCRIPT_IS_HERE = all(client.installed() for client in node.clients)
VECTORS_TO_FILE = """
import numpy as _numpy
if "vectors" in globals():
    _numpy.save({path!r}, _numpy.array(vectors, dtype="float32"))
"""


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_snippets(
    real_server: RunningServer,
    number: int,
    tmp_path: Path,
    client_environment: dict[str, str],
    expected_vectors: np.ndarray,
) -> None:
    snippet = PYTHON[number].replace("http://127.0.0.1:8080", real_server.url)
    path = str(tmp_path / "vectors.npy")
    done = subprocess.run(
        [sys.executable, "-c", snippet + VECTORS_TO_FILE.format(path=path)],
        cwd=tmp_path,
        env=client_environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if "vectors = " in snippet:
        np.testing.assert_allclose(np.load(path), expected_vectors, atol=1e-5)


@pytest.mark.skipif(not JAVASCRIPT_IS_HERE, reason="needs Node.js and its packages")
@pytest.mark.parametrize("number", range(len(JAVASCRIPT)))
def test_javascript_snippets(
    real_server: RunningServer,
    number: int,
    client_environment: dict[str, str],
    expected_vectors: np.ndarray,
) -> None:
    snippet = JAVASCRIPT[number].replace("http://127.0.0.1:8080", real_server.url)
    done = subprocess.run(
        ["node", "--input-type=module"],
        input=f"{snippet}\nconsole.log(JSON.stringify(vectors));",
        cwd=node.FOLDER,
        env=client_environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    shape, vectors = done.stdout.splitlines()
    assert shape == "2 384"
    np.testing.assert_allclose(json.loads(vectors), expected_vectors, atol=1e-5)


def test_the_table_of_clients_is_that_of_the_matrix() -> None:
    _, _, table = README.partition("<!-- clients: ")
    rows = [line.split(" | ") for line in table.partition("<!-- end")[0].splitlines()[3:]]
    held = {row[0].removeprefix("| "): row[-1].removesuffix(" |") for row in rows}
    cases = {client.name: len(client.cases) for client in CLIENTS}
    assert held == {name: f"{count} of {count} cases hold" for name, count in cases.items()}


@pytest.fixture(scope="module")
def expected_vectors() -> np.ndarray:
    return reference.vectors(["The cat sat on the mat.", "Ein zweiter Text"])


def commands(block: str) -> list[str]:
    """The commands of a block, those of several lines in one."""
    return block.replace("\\\n", "").splitlines()


def test_models_come_and_go_by_the_commands_that_are_told(tmp_path: Path) -> None:
    (start,) = [b for b in SHELL if "--disk-swap" in b]
    (calls,) = [b for b in SHELL if "-X DELETE" in b]
    flags = shlex.split(commands(start)[0])[1:]
    with run_process(*flags, "--swap-dir", str(tmp_path)) as server:
        for name in ("first", "second", "first"):
            assert server.embed(model=name, input="a").status_code == 200
        assert httpx.get(f"{server.url}/api/status").json()["swaps"]
        for call in commands(calls):
            command = shlex.split(call.replace("http://127.0.0.1:8080", server.url))
            done = subprocess.run(
                [*command, "-sS", "--fail-with-body"], capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 0, f"{call}\n{done.stdout}{done.stderr}"
            assert json.loads(done.stdout)["name"] == "team/third"
        assert "team/third" not in httpx.get(f"{server.url}/v1/models").text


def test_the_first_request(real_server: RunningServer) -> None:
    command = next(block for block in SHELL if block.startswith("curl"))
    command = command.replace("http://127.0.0.1:8080", real_server.url)
    done = subprocess.run(
        shlex.split(command), capture_output=True, text=True, timeout=60, check=True
    )
    assert f'"model":"{REAL_MODEL}"' in done.stdout


def test_server_commands_are_valid(tmp_path: Path) -> None:
    """Each ``serve.sh`` line has flags and variables that the settings accept."""
    lines = [line for block in SHELL for line in commands(block) if "scripts/serve.sh" in line]
    assert len(lines) >= 6
    for line in lines:
        command = line.replace(
            "scripts/serve.sh", f"{shlex.quote(sys.executable)} -m appliance config validate"
        )
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_generated_parts_are_fresh() -> None:
    subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "update_readme.py"), "--check"],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
