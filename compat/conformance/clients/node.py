# SPDX-License-Identifier: Apache-2.0
"""OpenAI's own library for JavaScript; its cases are in ``node/run.mjs``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from compat.conformance.checks import Mismatch
from compat.conformance.registry import Case, Check, Group
from compat.conformance.target import Target

__all__ = ["INSTALL", "cases", "is_installed"]

FOLDER = Path(__file__).parents[1] / "node"
INSTALL = f"npm install --prefix {FOLDER}"
TIMEOUT_SECONDS = 300

ABOUT = {
    "default": "Unless told otherwise the library asks for base64, and decodes it.",
    "encoding-float": "Lists of numbers can be asked for.",
    "list-of-texts": "Many texts come back in order, with their usage.",
    "token-ids": "Token ids give the vectors of their texts.",
    "dimensions": "Vectors can be had shorter.",
    "models-list": "The library lists the models.",
    "models-retrieve": "The library describes a model.",
    "unknown-model": "An unknown model throws NotFoundError, with its code.",
    "dimensions-out-of-range": "Too many dimensions throw BadRequestError, with their param.",
    "empty-text": "The empty text throws BadRequestError.",
    "request-id": "The request's id can be read from the answer.",
    "concurrent-calls": "Of 32 calls at once each gets the vector of its own text.",
}


def is_installed() -> bool:
    """Whether Node is there, and the library in its place."""
    library = FOLDER / "node_modules" / "openai" / "package.json"
    return shutil.which("node") is not None and library.is_file()


def _check(name: str) -> Check:
    def check(target: Target) -> None:
        fault = _faults(target).get(name, "run.mjs does not have this case")
        if fault:
            raise Mismatch(fault)

    return check


@cache
def _faults(target: Target) -> dict[str, str]:
    """Run all cases in one process; what is wrong by case, empty where nothing is."""
    node = shutil.which("node") or "node"
    environment = {
        **os.environ,
        "CONFORMANCE_BASE_URL": target.base_url,
        "CONFORMANCE_MODEL": target.model,
        "CONFORMANCE_API_KEY": target.sdk_key,
        "CONFORMANCE_COSINE": str(target.least_cosine),
    }
    done = subprocess.run(  # noqa: S603
        [node, str(FOLDER / "run.mjs")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode:
        raise Mismatch(f"node ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    rows: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["case"]: row["fault"] for row in rows}


cases = [Case("node", name, Group.OPENAI, about, _check(name)) for name, about in ABOUT.items()]
