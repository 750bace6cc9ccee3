# SPDX-License-Identifier: Apache-2.0
"""Work done in process, in the venv of the library that does it.

    python -m bench_lib.worker KIND MODEL_FOLDER [ARGUMENT]

Reads one JSON request a line from stdin and answers one JSON line; blocked on stdin it costs no
CPU. The modules `worker*.py` import nothing else of this package, whose needs the venv has not.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from typing import Any, Protocol

__all__: list[str] = []


class Task(Protocol):
    """Answers requests of one kind of worker."""

    packages: tuple[str, ...]

    def answer(self, request: dict[str, Any]) -> dict[str, Any]: ...


def make_task(kind: str, folder: str, *arguments: str) -> Task:
    """Load what a worker of this kind works with."""
    if kind == "onnxruntime":
        from bench_lib.worker_onnx import OnnxRuntime

        return OnnxRuntime(folder, *arguments)
    from bench_lib.worker_torch import Bare, SentenceTransformers

    return Bare(folder) if kind == "bare" else SentenceTransformers(folder)


def main(kind: str, folder: str, *arguments: str) -> None:
    # Libraries print where they like: keep the answers' pipe to ourselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    task = make_task(kind, folder, *arguments)
    print(json.dumps({name: version(name) for name in task.packages}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(task.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
