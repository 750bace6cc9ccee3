# SPDX-License-Identifier: Apache-2.0
"""Runs commands of the docs word for word, and writes down those that this machine cannot run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.documents import DOCUMENTED_SERVER, ROOT

REAL = ("cat", "grep", "gzip", "head", "ls", "mkdir", "openssl", "sleep", "sort", "zcat")
"""Programs of the system that blocks may use as they are."""

_NOTE = """\
import json, os, sys
call = {"arguments": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}
print(json.dumps(call), file=open(os.environ["DOCS_CALLS"], "a"))
"""

_NOTE_DOWN = '"$DOCS_PYTHON" -IS "$DOCS_BIN/note.py" "${0##*/}"'

_APPLIANCE = f"""#!/bin/bash
[[ "$1" != serve && " $* " != *" --ray "* ]] || exec {_NOTE_DOWN} "$@"
exec "$DOCS_PYTHON" -m appliance "$@"
"""

_CURL = f"""#!/bin/bash
[[ "$*" == *"$DOCS_SERVER"* ]] || exec {_NOTE_DOWN} "$@"
exec {shutil.which("curl")} --silent --show-error --fail-with-body "$@"
"""


@dataclass(frozen=True)
class Call:
    """A command that was written down."""

    program: str
    arguments: list[str]
    environment: dict[str, str]
    folder: Path

    def file(self, name: str) -> Path:
        """A file that the command names: in the repository, or made by a command before it."""
        found = [base / name for base in (self.folder, ROOT) if (base / name).exists()]
        assert found, f"{name} is not there"
        return found[0]

    def value(self, flag: str) -> str:
        """What follows a flag."""
        return self.arguments[self.arguments.index(flag) + 1]

    def values(self, flag: str) -> list[str]:
        """What follows a flag each time."""
        pairs = zip(self.arguments, self.arguments[1:], strict=False)
        return [value for name, value in pairs if name == flag]


@dataclass
class Outcome:
    """What came of some commands."""

    stdout: str
    calls: list[Call]
    """Those that were written down."""


def prepare(folder: Path, stand_ins: list[str]) -> None:
    """Make a folder look like the repository to commands that are run in it.

    Nothing but what is put into its ``bin`` can be run there.

    Args:
        folder: An empty one.
        stand_ins: Names of programs to write down rather than run; those with a slash are files.
    """
    programs = folder / "bin"
    programs.mkdir()
    (programs / "note.py").write_text(_NOTE)
    for name in REAL:
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed")
        (programs / name).symlink_to(found)
    for name in stand_ins:
        place = folder / name if "/" in name else programs / name
        place.parent.mkdir(parents=True, exist_ok=True)
        _write_program(place, f'#!/bin/bash\nexec {_NOTE_DOWN} "$@"\n')
    _write_program(programs / "appliance", _APPLIANCE)
    _write_program(programs / "curl", _CURL)
    shutil.copytree(ROOT / "ops", folder / "ops")
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/activate").touch()  # `appliance` is found as it is


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def run(script: str, folder: Path, server: str) -> Outcome:
    """Run commands, each of which has to succeed.

    Args:
        script: The commands.
        folder: Where, as :func:`prepare` has left it.
        server: URL that takes the place of the documented one.
    """
    calls = folder / "calls"
    own = {name: value for name, value in os.environ.items() if not name.startswith("APPLIANCE_")}
    done = subprocess.run(
        ["/bin/bash", "-e", "-o", "pipefail", "-c", script.replace(DOCUMENTED_SERVER, server)],
        cwd=folder,
        env={
            **own,
            "PATH": str(folder / "bin"),
            "PYTHONPATH": str(ROOT),
            "DOCS_BIN": str(folder / "bin"),
            "DOCS_CALLS": str(calls),
            "DOCS_PYTHON": sys.executable,
            "DOCS_SERVER": server,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    lines = calls.read_text().splitlines() if calls.exists() else []
    return Outcome(done.stdout, [_call(json.loads(line)) for line in lines])


def _call(noted: dict[str, object]) -> Call:
    program, *arguments = noted["arguments"]
    return Call(program, arguments, noted["environment"], Path(noted["folder"]))
