# SPDX-License-Identifier: Apache-2.0
"""Which cases to run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from compat.conformance.clients import CLIENTS
from compat.conformance.registry import Case, Client, Group

__all__ = ["select_cases"]


def select_cases(only: Sequence[str] = (), groups: Collection[Group] = tuple(Group)) -> list[Case]:
    """Choose cases; one stands for all of a client that is not installed.

    Args:
        only: Shell patterns, one of which an id must match. Empty: every id does.
        groups: Groups to choose from.
    """
    return [case for client in CLIENTS for case in _chosen(client, only, groups)]


def _chosen(client: Client, only: Sequence[str], groups: Collection[Group]) -> list[Case]:
    chosen = [
        case
        for case in client.cases
        if case.group in groups
        and (not only or any(fnmatchcase(case.id, pattern) for pattern in only))
    ]
    return chosen if not chosen or client.installed() else [client.placeholder()]
