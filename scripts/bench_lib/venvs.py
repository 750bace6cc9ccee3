# SPDX-License-Identifier: Apache-2.0
"""Virtual environments of the peers: made once, made again when their pins change."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["peer_python"]

REQUIREMENTS = Path(__file__).parent / "requirements"
TORCH = "torch==2.13.0"
STAMP = "bench-pins.txt"


def peer_python(folder: Path, peer: str) -> Path:
    """The interpreter of the peer's own venv."""
    venv = folder / peer
    python = venv / "bin" / "python"
    requirements = REQUIREMENTS / f"{peer}.txt"
    pins = f"python {sys.version_info[:2]}\n{TORCH}\n{requirements.read_text()}"
    stamp = venv / STAMP
    if stamp.is_file() and stamp.read_text() == pins:
        return python
    print(f"making the venv of {peer} in {venv}", file=sys.stderr, flush=True)
    if venv.exists():
        if not (venv / "pyvenv.cfg").is_file():
            raise FileExistsError(f"{venv} is no venv: will not replace it")
        shutil.rmtree(venv)
    _run(sys.executable, "-m", "venv", str(venv))
    # Torch first and alone: it is the big one, and the index decides which build it is.
    _run(str(python), "-m", "pip", "install", "--quiet", TORCH)
    _run(str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements))
    stamp.write_text(pins)
    return python


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)
