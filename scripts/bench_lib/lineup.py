# SPDX-License-Identifier: Apache-2.0
"""Who takes part: every system, started in its turn."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench_lib.llama import LLAMA, build_llama
from bench_lib.onnx_files import ONNXRUNTIME, export_onnx
from bench_lib.options import INFINITY_ONNX, REPOSITORY, SENTENCE_TRANSFORMERS
from bench_lib.plan import DTYPES, Systems
from bench_lib.rounds import say
from bench_lib.servers import INFINITY, external, infinity, infinity_onnx, llama, own, start
from bench_lib.systems import LibrarySystem, ServerSystem
from bench_lib.venvs import peer_python, versions
from bench_lib.workers import Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from bench_lib.options import Options
    from bench_lib.servers import RunningServer, ServerCommand

__all__ = ["Lineup"]


@dataclass
class Lineup:
    """The systems, each started when it enters and stopped with the stack."""

    options: Options
    stack: ExitStack
    systems: Systems = field(default_factory=Systems)
    versions: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Why a peer does not take part."""
    bare: Worker = field(init=False)
    """Has the bare model."""
    oracle: Worker = field(init=False)
    """sentence-transformers, whose vectors are the right ones."""

    def __post_init__(self) -> None:
        state = self.options.venvs
        self.bare = self._worker("bare", Path(sys.executable))
        self.oracle = self._worker(SENTENCE_TRANSFORMERS, peer_python(state, SENTENCE_TRANSFORMERS))
        self.oracle.first_vector()

    def enter_all(self) -> None:
        """Start one after another, so that each start has the machine to itself."""
        options = self.options
        if options.base_url is not None:
            self.systems.own.append(self._asked(external(options.base_url, options.headers)))
        elif not options.peers_only:
            self.systems.own += [self._serve(own(REPOSITORY, dtype)) for dtype in DTYPES]
        enter: dict[str, Callable[[], None]] = {
            INFINITY: self._infinity,
            INFINITY_ONNX: self._infinity_onnx,
            LLAMA: self._llama,
            SENTENCE_TRANSFORMERS: lambda: self._library(SENTENCE_TRANSFORMERS, self.oracle),
            ONNXRUNTIME: self._onnxruntime,
        }
        for peer in options.peers:
            try:
                enter[peer]()
            except (OSError, RuntimeError) as error:
                say(f"{peer} is left out: {error}")
                self.left_out[peer] = str(error).partition("\n")[0]

    def _infinity(self) -> None:
        state, model = self.options.venvs, self.options.model_folder
        python = peer_python(state, INFINITY)
        # Without BetterTransformer too: it asks for a transformers of 4.48 or older.
        for flags in ((), ("--no-bettertransformer",)):
            self.systems.peers.append(self._serve(infinity(python, model, state, *flags)))
        self.versions |= versions(python, ["infinity-emb"])

    def _infinity_onnx(self) -> None:
        state, model = self.options.venvs, self.options.model_folder
        python = peer_python(state, INFINITY)
        self.systems.peers.append(self._serve(infinity_onnx(python, export_onnx(state, model))))

    def _llama(self) -> None:
        files = build_llama(self.options.venvs, self.options.model_folder)
        for dtype in DTYPES:
            self.systems.peers.append(self._serve(llama(files, dtype)))
        self.versions |= files.versions

    def _onnxruntime(self) -> None:
        files = export_onnx(self.options.venvs, self.options.model_folder)
        python = peer_python(self.options.venvs, ONNXRUNTIME)
        for dtype, onnx_file in (("float32", files.fused), ("int8", files.int8)):
            worker = self._worker(ONNXRUNTIME, python, str(onnx_file))
            worker.first_vector()
            self._library(ONNXRUNTIME, worker, dtype)

    def _library(self, library: str, worker: Worker, dtype: str = "float32") -> None:
        for sort in (True, False):
            self.systems.libraries.append(LibrarySystem(library, worker, dtype, sort))

    def _worker(self, kind: str, python: Path, *arguments: str) -> Worker:
        """Start a library in a process of its own."""
        say(f"starting {' '.join((kind, *arguments))}")
        options = self.options
        worker = Worker(kind, python, options.model_folder, options.venvs, *arguments)
        self.stack.enter_context(worker)
        self.versions |= worker.versions
        return worker

    def _serve(self, command: ServerCommand) -> ServerSystem:
        say(f"starting {command.name}")
        server = start(command, self.options.venvs, self.options.headers)
        if server.process is not None:
            self.stack.enter_context(server.process)
        return self._asked(server)

    def _asked(self, server: RunningServer) -> ServerSystem:
        return ServerSystem(server, self.options.texts_per_request)
