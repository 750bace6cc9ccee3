# SPDX-License-Identifier: Apache-2.0
"""What is measured: servers over HTTP and libraries in process, one protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bench_lib.client import lone_latencies, post_all
from bench_lib.load import request_bodies
from bench_lib.servers import MODEL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench_lib.load import Load
    from bench_lib.processes import Process
    from bench_lib.servers import RunningServer
    from bench_lib.workers import Worker

__all__ = ["LEAST_COSINE", "LibrarySystem", "Pass", "ServerSystem", "System"]

LEAST_COSINE = {"float32": 0.9999, "bfloat16": 0.999}
"""Lower ones are faults. What is quantised is not held to any: its cosine is told."""

WARM_REQUESTS = 20


@dataclass(frozen=True)
class Pass:
    """One system's answer to the whole load."""

    seconds: float
    vectors: NDArray[np.float32]
    client_cpu_seconds: float = 0.0
    usage_tokens: int | None = None
    """Tokens by the server's own account, where it has one that counts tokens."""


class System(Protocol):
    """Something that turns texts into vectors."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str:
        """Number format of its matrix products."""
        ...

    @property
    def process(self) -> Process | None: ...
    @property
    def start_seconds(self) -> float | None:
        """From the start of its process to its first vector."""
        ...

    def embed(self, load: Load, clients: int) -> Pass: ...


@dataclass(frozen=True)
class ServerSystem:
    """A server, asked over HTTP."""

    server: RunningServer
    texts_per_request: int

    @property
    def name(self) -> str:
        return self.server.name

    @property
    def dtype(self) -> str:
        return self.server.dtype

    @property
    def process(self) -> Process | None:
        return self.server.process

    @property
    def start_seconds(self) -> float | None:
        return self.server.start_seconds

    def embed(self, load: Load, clients: int) -> Pass:
        bodies = list(request_bodies(load.texts, self.texts_per_request, MODEL))
        answers = post_all(self.server.endpoint, bodies, clients)
        usage = answers.usage_tokens if self.server.counts_tokens else None
        return Pass(answers.seconds, answers.vectors, answers.client_cpu_seconds, usage)

    def lone(self, text: str, times: int) -> list[float]:
        """Milliseconds of each of `times` requests of one text."""
        (body,) = request_bodies([text], 1, MODEL)
        return lone_latencies(self.server.endpoint, body, WARM_REQUESTS + times)[WARM_REQUESTS:]


@dataclass(frozen=True)
class LibrarySystem:
    """A library in a process of its own, given all texts at once: it has no clients."""

    library: str
    worker: Worker
    dtype: str
    sort: bool

    @property
    def name(self) -> str:
        quantised = "" if self.dtype in LEAST_COSINE else f" {self.dtype}"
        way = "all sorted" if self.sort else "32 as they arrive"
        return f"{self.library}{quantised}, {way}"

    @property
    def process(self) -> Process | None:
        return self.worker

    @property
    def start_seconds(self) -> float | None:
        return self.worker.start_seconds

    def embed(self, load: Load, clients: int) -> Pass:  # noqa: ARG002  # the protocol's
        encoded = self.worker.encode(load.texts, sort=self.sort)
        return Pass(encoded.seconds, encoded.vectors)
