# SPDX-License-Identifier: Apache-2.0
"""Run every client of the matrix against this server, and write the README's table of them.

    python scripts/client_table.py > clients.md

The server wants a key, has the embedded model with its trained weights, and a tiny cross-encoder of
random ones. What the cases expect is first held against sentence-transformers. Exits with 1, and
writes nothing, where a case fails or a client is not installed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from compat.conformance.__main__ import main as run_matrix
from compat.conformance.samples import QUESTION, TEXTS, numbered
from compat.conformance.target import Target
from tests.clients import reference
from tests.conftest import REAL_MODEL, run_process

KEY = "sk-of-the-table"
LARGEST_ERROR = 1e-5


def main() -> int:
    """Run the script."""
    with tempfile.TemporaryDirectory() as folder:
        reranker = reference.build_reranker(Path(folder, "reranker"))
        models = (
            {"model": f"embedded:{REAL_MODEL}"},
            {"model": str(reranker), "name": reference.RERANKER},
        )
        flags = [flag for model in models for flag in ("--models", json.dumps(model))]
        with run_process(*flags, "--api-keys", KEY) as server:
            with Target(server.url, api_key=KEY, rerank_model=reference.RERANKER) as target:
                hold(target, reranker)
            return write(server.url, Path(folder, "clients.md"))


def hold(target: Target, reranker: Path) -> None:
    """Hold what cases compare with against sentence-transformers.

    Raises:
        AssertionError: It differs.
    """
    texts = [*TEXTS, *numbered(25)]
    np.testing.assert_allclose(target.embed(texts), reference.vectors(texts), atol=LARGEST_ERROR)
    wanted = reference.scores(reranker, QUESTION, TEXTS)
    np.testing.assert_allclose(target.rank(QUESTION, TEXTS), wanted, atol=LARGEST_ERROR)


def write(url: str, table: Path) -> int:
    """Run the matrix, whose rows go to standard error, and print the table if all is well."""
    arguments = ["--base-url", url, "--api-key", KEY, "--rerank-model", reference.RERANKER]
    out, sys.stdout = sys.stdout, sys.stderr
    try:
        code = run_matrix([*arguments, "--strict", "--markdown", str(table)])
    finally:
        sys.stdout = out
    if code == 0:
        print(table.read_text(encoding="utf-8"), end="")
    return code


if __name__ == "__main__":
    sys.exit(main())
