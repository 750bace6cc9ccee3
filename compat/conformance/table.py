# SPDX-License-Identifier: Apache-2.0
"""A run as a table of the clients, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from compat.conformance.clients import CLIENTS
from compat.conformance.runner import Outcome, Result

__all__ = ["markdown_table"]

_HEAD = (
    "| Client | Package | What is called | Routes of | Result |\n| --- | --- | --- | --- | --- |"
)


def markdown_table(outcomes: Sequence[Outcome]) -> str:
    """A line a client, in the order of the run."""
    rows = [
        _row(name, list(group)) for name, group in groupby(outcomes, lambda one: one.case.client)
    ]
    return "\n".join([_HEAD, *rows]) + "\n"


def _row(name: str, outcomes: Sequence[Outcome]) -> str:
    (client,) = (client for client in CLIENTS if client.name == name)
    version = client.version() if client.installed() else "not installed"
    groups = ", ".join(dict.fromkeys(outcome.case.group for outcome in outcomes))
    passed = sum(outcome.result is Result.PASSED for outcome in outcomes)
    failed = sum(outcome.result is Result.FAILED for outcome in outcomes)
    result = f"{passed} of {len(outcomes)} cases hold"
    if skipped := len(outcomes) - passed - failed:
        result += f", {skipped} skipped"
    return f"| {name} | {version} | {client.calls} | {groups} | {result} |"
