# SPDX-License-Identifier: Apache-2.0
"""The table of faults names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    line.split("|")[1:-1]
    for line in Path(__file__).with_name("README.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ")
][2:]


def named_in(file: Path) -> set[str]:
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}::{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
    return names


@pytest.mark.parametrize("row", ROWS, ids=[row[0].strip() for row in ROWS])
def test_each_fault_has_its_test(row: list[str]) -> None:
    assert len(row) == 3
    named = re.findall(r"`(tests/\S+?\.py)::(\S+)`", row[2])
    assert named, "no test is named"
    for file, test in named:
        assert test in named_in(ROOT / file)
