# SPDX-License-Identifier: Apache-2.0
"""What the peers need on disk: made once, made again when its pins change."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["made_once", "peer_python", "pins", "run", "versions"]

REQUIREMENTS = Path(__file__).parent / "requirements"
TORCH = "torch==2.13.0"
STAMP = "bench-pins.txt"


def peer_python(folder: Path, peer: str) -> Path:
    """The interpreter of the peer's own venv."""
    venv = made_once(folder / peer, pins(peer), lambda venv: _make_venv(venv, peer))
    return venv / "bin" / "python"


def pins(peer: str) -> str:
    """All that the contents of the peer's venv depend on."""
    requirements = (REQUIREMENTS / f"{peer}.txt").read_text()
    return f"python {sys.version_info[:2]}\n{TORCH}\n{requirements}"


def made_once(folder: Path, stamp: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills, unless an earlier run did so under the same stamp."""
    stamp_file = folder / STAMP
    if stamp_file.is_file() and stamp_file.read_text() == stamp:
        return folder
    print(f"making {folder}", file=sys.stderr, flush=True)
    if folder.exists():
        # Only what a run of the bench made, or began to make.
        if not any((folder / name).is_file() for name in (STAMP, "pyvenv.cfg")):
            raise FileExistsError(f"{folder} is not of the bench's making: will not replace it")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / STAMP).touch()
    make(folder)
    stamp_file.write_text(stamp)
    return folder


def _make_venv(venv: Path, peer: str) -> None:
    run(sys.executable, "-m", "venv", str(venv))
    python = str(venv / "bin" / "python")
    # Torch first and alone: it is the big one, and the index decides which build it is.
    run(python, "-m", "pip", "install", "--quiet", TORCH)
    run(python, "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS / f"{peer}.txt"))


def versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Of packages in the interpreter's venv."""
    script = (
        "import json, sys; from importlib.metadata import version;"
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    command = [str(python), "-c", script, *packages]
    found: dict[str, str] = json.loads(subprocess.check_output(command, text=True))
    return found


def run(*command: str, **environment: str) -> None:
    """Run a command to its end; what it prints is no result.

    Raises:
        RuntimeError: It failed.
    """
    done = subprocess.run(command, check=False, stdout=sys.stderr, env=os.environ | environment)
    if done.returncode:
        shown = " ".join((Path(command[0]).name, *command[1:4]))
        raise RuntimeError(f"`{shown} ...` ended with {done.returncode}")
