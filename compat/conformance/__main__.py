# SPDX-License-Identifier: Apache-2.0
"""The command: ``python -m compat.conformance --base-url URL``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from compat.conformance.checks import Mismatch
from compat.conformance.environment import quiet_environment
from compat.conformance.registry import Case, Group
from compat.conformance.runner import report, run_cases, summarise
from compat.conformance.selection import select_cases
from compat.conformance.table import markdown_table
from compat.conformance.target import LEAST_COSINE, Target

__all__ = ["main"]

EXIT_FAILED = 1
EXIT_UNUSABLE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the matrix.

    Args:
        arguments: Command line without the program's name. Unset: ``sys.argv``.

    Returns:
        The exit code: 0, 1 where a case failed, 2 where none could be run.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    groups = [Group(name) for name in options.group or Group]
    if not options.list:
        needs = {Group.AUTH: options.api_key, Group.RERANK: options.rerank_model}
        groups = [group for group in groups if needs.get(group, True)]
    cases = select_cases(options.only, groups)
    if not cases:
        parser.error("no case is left by --only and --group; see --list")
    if options.list:
        _print_list(cases)
        return 0
    if not options.base_url:
        parser.error("--base-url is needed")
    target = Target(
        options.base_url, options.model, options.api_key, options.cosine, options.rerank_model
    )
    with quiet_environment(), target:
        return _run(cases, target, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m compat.conformance",
        description="Try the clients of embeddings APIs against a server.",
    )
    add = parser.add_argument
    add("--base-url", metavar="URL", help="where the server is, with or without /v1")
    add("--model", metavar="NAME", help="model to ask for; unset: the first one listed")
    add("--api-key", metavar="KEY", help="bearer key; with one, the group 'auth' runs too")
    add("--rerank-model", metavar="NAME", help="with one, the group 'rerank' runs too")
    add("--only", metavar="GLOB", action="append", default=[], help="such as 'langchain/*'")
    add("--group", action="append", choices=[*Group], help="may be repeated; unset: all groups")
    add("--strict", action="store_true", help="a skipped case fails the run")
    add("--json", metavar="FILE", type=Path, help="write every result to this file as well")
    add("--markdown", metavar="FILE", type=Path, help="write a table of the clients to this file")
    add("--list", action="store_true", help="print the cases, and run none")
    add(
        "--cosine",
        metavar="X",
        type=float,
        default=LEAST_COSINE,
        help="least cosine of vectors that are the same (%(default)s); less for half precision",
    )
    return parser


def _print_list(cases: Sequence[Case]) -> None:
    width = max(len(case.id) for case in cases)
    for case in cases:
        print(f"{case.id.ljust(width)}  {case.group.ljust(len(Group.EXTENSION))}  {case.about}")


def _run(cases: Sequence[Case], target: Target, options: argparse.Namespace) -> int:
    try:
        print(f"{target.base_url}, model {target.model}\n")
    except (httpx.TransportError, httpx.InvalidURL, Mismatch) as error:
        print(f"{target.base_url}: {type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    started = time.perf_counter()
    outcomes = run_cases(cases, target, sys.stdout)
    counts = summarise(outcomes)
    told = ", ".join(f"{count} {result}" for result, count in counts.items())
    print(f"\n{told} in {time.perf_counter() - started:.1f} s")
    if options.json is not None:
        options.json.write_text(json.dumps(report(outcomes, target), indent=2) + "\n")
    if options.markdown is not None:
        options.markdown.write_text(markdown_table(outcomes))
    failed = counts["failed"] > 0 or (options.strict and counts["skipped"] > 0)
    return EXIT_FAILED if failed else 0


if __name__ == "__main__":
    sys.exit(main())
