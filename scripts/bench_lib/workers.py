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

from bench_lib.processes import Process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Encoded", "Worker"]

SCRIPT = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Encoded:
    """What sentence-transformers made of the texts."""

    seconds: float
    vectors: NDArray[np.float32]


class Worker(Process):
    """A running `worker.py`."""

    def __init__(self, kind: str, python: Path, model_folder: Path, state: Path) -> None:
        command = [str(python), str(SCRIPT), kind, str(model_folder)]
        super().__init__(command, state / "logs" / f"worker-{kind}.log", state, talks=True)
        self.versions: dict[str, str] = self._read()
        self.ready_seconds = time.perf_counter() - self.started

    def floor(self, batches: Sequence[int], *, prepacked: bool) -> float:
        """Seconds that the linear layers alone take over batches of so many tokens."""
        answer = self._ask(task="floor", batches=list(batches), prepacked=prepacked)
        return float(answer["seconds"])

    def forward(self, text: str, times: int) -> list[float]:
        """Milliseconds of each of `times` bare forward passes of the text, already tokenised."""
        return [
            float(one) for one in self._ask(task="forward", text=text, times=times)["milliseconds"]
        ]

    def encode(self, texts: Sequence[str], *, sort: bool) -> Encoded:
        """All texts in one call, which sorts them; or 32 texts a call, in their order."""
        answer = self._ask(task="sorted" if sort else "arriving", texts=list(texts))
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
