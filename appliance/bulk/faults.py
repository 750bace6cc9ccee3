# SPDX-License-Identifier: Apache-2.0
"""Why ``appliance embed`` cannot go on, in one line for the person at the terminal."""

from __future__ import annotations

__all__ = ["BulkFault", "CommandFault", "RowFault"]


class BulkFault(Exception):
    """The work failed. What was finished of it is kept.

    Attributes:
        exit_code: The command's exit code.
    """

    exit_code = 1


class RowFault(BulkFault):
    """A row has no text that could be embedded."""


class CommandFault(BulkFault):
    """The command cannot succeed as it was given, however often it is run."""

    exit_code = 2
