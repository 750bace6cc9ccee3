# SPDX-License-Identifier: Apache-2.0
"""Libraries for JavaScript. The cases of each are in a file of its name, in ``node/cases``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from compat.conformance.checks import Mismatch
from compat.conformance.registry import Case, Check, Client, Group
from compat.conformance.target import Target

__all__ = ["clients"]

FOLDER = Path(__file__).parents[1] / "node"
INSTALL = f"npm install --prefix {FOLDER}"
TIMEOUT_SECONDS = 300

OPENAI = {
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

LANGCHAIN_OPENAI = {
    "embed-query": "A query has the vector of its text.",
    "embed-documents": "Documents have the vectors of their texts, over several requests.",
    "dimensions": "Vectors can be had shorter.",
}
LANGCHAIN_OLLAMA = {
    "embed-query": "A query has the vector of its text.",
    "embed-documents": "Documents have the vectors of their texts, in order.",
}


def _client(name: str, package: str, group: Group, calls: str, about: Mapping[str, str]) -> Client:
    return Client(
        name,
        [Case(name, case, group, told, _check(name, case)) for case, told in about.items()],
        partial(_is_installed, package),
        INSTALL,
        calls,
        partial(_version, package),
    )


def _description(package: str) -> Path:
    return FOLDER / "node_modules" / package / "package.json"


def _is_installed(package: str) -> bool:
    return shutil.which("node") is not None and _description(package).is_file()


def _version(package: str) -> str:
    return f"{package} {json.loads(_description(package).read_text())['version']} (npm)"


def _check(program: str, name: str) -> Check:
    def check(target: Target) -> None:
        fault = _faults(target, program).get(name, f"{program}.mjs does not have this case")
        if fault:
            raise Mismatch(fault)

    return check


@cache
def _faults(target: Target, program: str) -> dict[str, str]:
    """Run all cases in one process; what is wrong by case, empty where nothing is."""
    node = shutil.which("node") or "node"
    environment = {
        **os.environ,
        "CONFORMANCE_BASE_URL": target.base_url,
        "CONFORMANCE_ROOT_URL": target.root_url,
        "CONFORMANCE_MODEL": target.model,
        "CONFORMANCE_API_KEY": target.sdk_key,
        "CONFORMANCE_COSINE": str(target.least_cosine),
    }
    done = subprocess.run(  # noqa: S603
        [node, str(FOLDER / "run.mjs"), program],
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


clients = (
    _client("node", "openai", Group.OPENAI, "`OpenAI`", OPENAI),
    _client(
        "langchain-js", "@langchain/openai", Group.OPENAI, "`OpenAIEmbeddings`", LANGCHAIN_OPENAI
    ),
    _client(
        "langchain-js-ollama",
        "@langchain/ollama",
        Group.OLLAMA,
        "`OllamaEmbeddings`",
        LANGCHAIN_OLLAMA,
    ),
)
