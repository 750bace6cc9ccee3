# SPDX-License-Identifier: Apache-2.0
"""The bench's side of `worker.py`: one child process a library, asked one thing at a time."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench_lib.processes import SCRIPTS, Process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["FIRST_TEXT", "Encoded", "Worker"]

FIRST_TEXT = "hello"


@dataclass(frozen=True)
class Encoded:
    """What a library made of the texts."""

    seconds: float
    vectors: NDArray[np.float32]


class Worker(Process):
    """A running `worker.py`."""

    def __init__(
        self, kind: str, python: Path, model_folder: Path, state: Path, *arguments: str
    ) -> None:
        log = state / "logs" / f"worker-{'-'.join([kind, *(Path(a).stem for a in arguments)])}.log"
        command = [str(python), "-m", "bench_lib.worker", kind, str(model_folder), *arguments]
        super().__init__(command, log, state, {"PYTHONPATH": str(SCRIPTS)}, talks=True)
        self.versions: dict[str, str] = self._read()
        self.start_seconds: float | None = None

    def first_vector(self) -> None:
        """Embed one text, and note how long that is after the start."""
        self.encode([FIRST_TEXT], sort=False)
        self.start_seconds = time.perf_counter() - self.started

    def floor(self, batches: Sequence[int], dtype: str, *, prepacked: bool) -> float | None:
        """Seconds that the linear layers alone take over batches of so many tokens.

        None if the CPU knows no such layout in this format.
        """
        answer = self._ask(task="floor", batches=list(batches), dtype=dtype, prepacked=prepacked)
        return None if answer["seconds"] is None else float(answer["seconds"])

    def forward(self, text: str, dtype: str, times: int) -> list[float]:
        """Milliseconds of each of `times` bare forward passes of the text, already tokenised."""
        answer = self._ask(task="forward", text=text, dtype=dtype, times=times)
        return [float(one) for one in answer["milliseconds"]]

    def encode(self, texts: Sequence[str], *, sort: bool) -> Encoded:
        """All texts in one call, sorted by length; or 32 texts a call, in their order."""
        answer = self._ask(texts=list(texts), sort=sort)
        flat = np.frombuffer(base64.b64decode(answer["vectors"]), "<f4")
        return Encoded(float(answer["seconds"]), flat.reshape(len(texts), -1))

    def _ask(self, **request: object) -> dict[str, Any]:
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps(request) + "\n")
        self.child.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        if not line:
            self.child.wait()
            self.require_alive()
        answer: dict[str, Any] = json.loads(line)
        return answer
