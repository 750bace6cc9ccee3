# SPDX-License-Identifier: Apache-2.0
"""Build the wheel, install it with pip where nothing else is, run it, and tell what that took.

In a temporary folder, away from the checkout: a bare venv, the wheel with its extra ``embedded``
in the versions of ``constraints.txt``, and ``appliance serve`` from another folder still. Asked are
its version, the settings' schema, a vector, held against the one that sentence-transformers
computes, token ids of cl100k_base, and the pages; then it is told to stop.

Takes a few minutes, the package index, and 3 GB (8 GB with PyTorch's build for CUDA).

    python scripts/prove_wheel.py
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
from container_lib.building import size

import appliance

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
VOCABULARY = "llama-index-core"
"""A package that carries the vocabulary of cl100k_base."""

START_SECONDS = 300.0
STOP_SECONDS = 60.0
TOLERANCE = 1e-5
TEXT = "Hello, world"
IDS = [9906, 11, 1917]
FIRST_VALUES = (-0.056094, 0.035543, 0.004593, 0.023866, -0.049444, -0.155141, 0.065926, 0.022491)
"""Of the text's vector by all-MiniLM-L6-v2, as sentence-transformers 6.2.0 computes it."""

PAGES = (
    "/dashboard",
    "/dashboard/static/main.js",
    "/dashboard/static/plotly.min.js",
    "/docs",
    "/docs/static/docs.js",
    "/openapi.json",
)


def main() -> int:
    """Run the script."""
    with tempfile.TemporaryDirectory(prefix="appliance-wheel-") as temporary:
        folder = Path(temporary)
        with _timed("built"):
            wheel = build_wheel(folder / "dist")
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB")
        venv = folder / "venv"
        with _timed("installed"):
            _install(venv, wheel)
        print(f"the venv takes {size(venv) / 1e6:.0f} MB")
        work = folder / "work"
        work.mkdir()
        prove([str(venv / "bin" / "appliance")], work, {"PATH": os.environ["PATH"]}, ids=IDS)
    print("proven")
    return 0


def build_wheel(folder: Path) -> Path:
    """Build the wheel as the installed hatchling does.

    Args:
        folder: Where to; it is made.
    """
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    command = [*build, "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.whl"))


def _install(venv: Path, wheel: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--constraint", str(CONSTRAINTS)]
    # torch by itself first: where an index or a folder offers a build for CPUs, it is taken.
    for wanted in (["torch"], [f"{wheel}[embedded]"], ["--no-deps", VOCABULARY]):
        subprocess.run([*install, *wanted], check=True)


def prove(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    ids: Sequence[int] | None = None,
) -> None:
    """Run what was installed, and ask it what a user would.

    Args:
        command: ``appliance``, however it is to be called.
        folder: An empty folder to run in. It is the home directory too.
        environment: All variables but ``HOME``.
        ids: Token ids of cl100k_base for the text, if the vocabulary is there.
    """
    variables = {**environment, "HOME": str(folder)}
    said = _output([*command, "--version"], folder, variables)
    assert said.split()[-1] == appliance.__version__, said
    schema = json.loads(_output([*command, "config", "schema"], folder, variables))
    assert "models" in schema["properties"]
    with (
        _serving(command, folder, variables) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        for given in [TEXT, *([ids] if ids else [])]:
            body = {"model": "all-MiniLM-L6-v2", "input": given}
            answer = http.post("/v1/embeddings", json=body)
            answer.raise_for_status()
            vector = answer.json()["data"][0]["embedding"]
            off = max(abs(a - b) for a, b in zip(vector, FIRST_VALUES, strict=False))
            assert off < TOLERANCE, off
            print(f"a vector of {len(vector)} values for {given}, off by {off:.1e} at most")
        for page in PAGES:
            http.get(page, follow_redirects=True).raise_for_status()
        print(f"{', '.join(PAGES)}: 200")


def _output(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=variables, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@contextmanager
def _serving(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> Iterator[str]:
    log = folder / "log"
    with log.open("w") as file:
        served = [*command, "serve", "--port", "0"]
        process = subprocess.Popen(served, cwd=folder, env=variables, stderr=file)
    try:
        with _timed("/health 200"):
            url = _wait_until_well(process, log)
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS) == 0, process.returncode
        print("SIGTERM: ended with 0")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_until_well(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"running on (http://\S+)", log.read_text())
        if found and httpx.get(f"{found[1]}/health").status_code == httpx.codes.OK:
            return found[1]
        time.sleep(0.05)
    raise RuntimeError(f"it does not serve:\n{log.read_text()}")


@contextmanager
def _timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{what} after {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
