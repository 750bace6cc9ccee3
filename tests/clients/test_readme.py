# SPDX-License-Identifier: Apache-2.0
"""The README's tables are those of the code. Its commands are run by ``tests/docs``."""

from __future__ import annotations

import os
import subprocess
import sys

from compat.conformance.clients import CLIENTS
from tests.docs.documents import ROOT


def test_the_table_of_clients_is_that_of_the_matrix() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, table = readme.partition("<!-- clients: ")
    rows = [line.split(" | ") for line in table.partition("<!-- end")[0].splitlines()[3:]]
    held = {row[0].removeprefix("| "): row[-1].removesuffix(" |") for row in rows}
    cases = {client.name: len(client.cases) for client in CLIENTS}
    assert held == {name: f"{count} of {count} cases hold" for name, count in cases.items()}


def test_generated_parts_are_fresh() -> None:
    subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "update_readme.py"), "--check"],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
