# SPDX-License-Identifier: Apache-2.0
"""The instance's SQLite file, as far as it matters before a database library is there."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

__all__ = ["database_file", "holds_tokens"]


def database_file(folder: Path) -> Path:
    """The SQLite file, given the setting ``data_dir``."""
    return folder.expanduser() / "appliance.db"


def holds_tokens(folder: Path) -> bool:
    """Whether tokens were ever made in a data folder; also where that cannot be told.

    Args:
        folder: The setting ``data_dir``.
    """
    file = database_file(folder)
    if not file.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as opened:
            names = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'tokens'"
            if opened.execute(names).fetchone() is None:
                return False
            return opened.execute("SELECT 1 FROM tokens LIMIT 1").fetchone() is not None
    except sqlite3.Error:
        return True
