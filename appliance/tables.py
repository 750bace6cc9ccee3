# SPDX-License-Identifier: Apache-2.0
"""Tables that commands print."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ["new_table", "table_console"]

WIDE = 200
"""Columns of a table that no terminal limits."""


def new_table() -> Table:
    """A table without columns yet."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False)


def table_console() -> Console:
    """Standard output for tables: as wide as a terminal, or wide, and no markup in names."""
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = WIDE
    return console
