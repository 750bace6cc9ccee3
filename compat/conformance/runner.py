# SPDX-License-Identifier: Apache-2.0
"""Running cases and telling how they went."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TextIO

from compat.conformance.checks import Mismatch, NotOffered
from compat.conformance.registry import Case, Group, NotInstalled
from compat.conformance.target import Target

__all__ = ["Outcome", "Result", "report", "run_case", "run_cases", "summarise"]

DETAIL_WIDTH = 240

# A route of each dialect that answers GET, if only to say that it wants POST.
_ROUTES = {Group.TEI: "/info", Group.OLLAMA: "/api/tags", Group.COHERE: "/v2/embed"}


class Result(StrEnum):
    """How a case went."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_INSTALLED = "skipped: not installed"
    NOT_OFFERED = "skipped: not offered"

    @property
    def skipped(self) -> bool:
        """Whether nothing can be said."""
        return self in (Result.NOT_INSTALLED, Result.NOT_OFFERED)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the table."""

    case: Case
    result: Result
    detail: str
    seconds: float


def run_case(case: Case, target: Target) -> Outcome:
    """Run one case. Whatever it raises is the outcome."""
    started = time.perf_counter()
    result, detail = _run(case, target)
    return Outcome(case, result, detail, time.perf_counter() - started)


def _run(case: Case, target: Target) -> tuple[Result, str]:
    try:
        _expect_dialect(case.group, target)
        pending = case.check(target)
        if inspect.iscoroutine(pending):
            asyncio.run(pending)
    except NotInstalled as error:
        return Result.NOT_INSTALLED, str(error)
    except NotOffered as error:
        return Result.NOT_OFFERED, str(error)
    except Mismatch as error:
        return Result.FAILED, str(error)
    except Exception as error:  # a client may raise anything
        return Result.FAILED, f"{type(error).__name__}: {error}"
    return Result.PASSED, ""


def _expect_dialect(group: Group, target: Target) -> None:
    route = _ROUTES.get(group)
    if route and not target.offers(route):
        raise NotOffered(f"the server has no {route}")


def run_cases(cases: Sequence[Case], target: Target, output: TextIO) -> list[Outcome]:
    """Run cases in turn and print each row of the table as soon as it is known."""
    widths = (
        max(len("client"), *(len(case.client) for case in cases)),
        max(len("case"), *(len(case.name) for case in cases)),
        max(len(result) for result in Result),
    )

    def print_row(*cells: str) -> None:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
        print(" | ".join([*padded, *cells[len(widths) :]]).rstrip(), file=output, flush=True)

    print_row("client", "case", "result", "detail")
    print("-+-".join("-" * width for width in (*widths, len("detail"))), file=output)
    outcomes: list[Outcome] = []
    for case in cases:
        outcome = run_case(case, target)
        outcomes.append(outcome)
        print_row(case.client, case.name, outcome.result, _one_line(outcome.detail))
    return outcomes


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= DETAIL_WIDTH else f"{line[:DETAIL_WIDTH]}..."


def summarise(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Count how cases went."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for outcome in outcomes:
        counts["skipped" if outcome.result.skipped else outcome.result] += 1
    return counts


def report(outcomes: Sequence[Outcome], target: Target) -> dict[str, Any]:
    """Everything that is known, for a file."""
    return {
        "base_url": target.base_url,
        "model": target.model,
        "summary": summarise(outcomes),
        "results": [
            {
                "client": outcome.case.client,
                "case": outcome.case.name,
                "group": outcome.case.group,
                "about": outcome.case.about,
                "result": outcome.result,
                "detail": outcome.detail,
                "seconds": round(outcome.seconds, 4),
            }
            for outcome in outcomes
        ],
    }
