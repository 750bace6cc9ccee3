# SPDX-License-Identifier: Apache-2.0
"""What runs in an actor of Ray: the engine with the model, and shards that come to it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pyarrow as pa

from appliance.bulk.arguments import EmbedArguments
from appliance.bulk.chunks import Chunk, Todo
from appliance.bulk.embedder import Embedded, Embedder
from appliance.bulk.faults import BulkFault
from appliance.bulk.job import Job
from appliance.bulk.output import FinishedRows, write_output
from appliance.bulk.parts import with_vectors
from appliance.bulk.progress import Meter
from appliance.bulk.ray_input import Shard
from appliance.bulk.ray_output import Counts, write_part
from appliance.bulk.ray_places import Place, find_place
from appliance.bulk.reader import ParquetSource
from appliance.engine.cores import limit_cores
from appliance.engine.service import Engine
from appliance.settings import Settings

__all__ = ["EmbedShards", "Outcome", "Work"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """What all actors do.

    Attributes:
        settings: Made by :func:`appliance.bulk.embedder.bulk_settings`.
        arguments: The command's flags.
        parts: Path or URI of the folder for parts.
        schema: Columns of every file of the input.
        cores: Cores that an actor may use. Unset: all of the machine.
    """

    settings: Settings
    arguments: EmbedArguments
    parts: str
    schema: pa.Schema
    cores: int | None


class Outcome(msgspec.Struct, frozen=True):
    """What became of a shard.

    Attributes:
        number: The shard's.
        counts: What its part holds.
        probe: Vector of a text that is always the same.
        fault: Why it was not embedded, if it was not; there is no part then.
        exit_code: The command's exit code in that case.
    """

    number: int
    counts: Counts = Counts(0, 0, 0, 0)
    probe: list[float] = []
    fault: str = ""
    exit_code: int = 0


class EmbedShards:
    """Embeds shards, several at once if they are sent by several threads.

    It raises nothing: what goes wrong is an outcome, so that it reaches the person at the terminal
    as it is told here.

    Args:
        work: What to do.
    """

    def __init__(self, work: Work) -> None:
        os.environ.update(work.settings.environment)  # before torch is imported, to load the model
        self._work = work
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="loop", daemon=True).start()
        self._embedder: Embedder | None = None
        self._failed = self._tell(0, self._start)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Embed the shards of a table's one column, and tell what became of each."""
        outcomes = [
            msgspec.msgpack.encode(self._take(msgspec.msgpack.decode(shard, type=Shard)))
            for shard in table.column("shard").to_pylist()
        ]
        return pa.table({"outcome": pa.array(outcomes, pa.binary())})

    def _take(self, shard: Shard) -> Outcome:
        if self._failed.fault:
            return msgspec.structs.replace(self._failed, number=shard.number)
        return self._tell(shard.number, lambda: self._embed(shard))

    def _tell(self, number: int, work: Callable[[], Coroutine[Any, Any, Outcome]]) -> Outcome:
        try:
            return asyncio.run_coroutine_threadsafe(work(), self._loop).result()
        except BulkFault as error:
            return Outcome(number, fault=str(error), exit_code=error.exit_code)
        except OSError as error:
            return Outcome(number, fault=str(error), exit_code=BulkFault.exit_code)
        except Exception as error:
            logger.exception("shard %d failed", number)
            told = f"{type(error).__name__}: {error}; the logs of Ray's workers say more"
            return Outcome(number, fault=told, exit_code=BulkFault.exit_code)

    async def _start(self) -> Outcome:
        limit_cores(self._work.cores)
        engine = Engine(self._work.settings)
        await engine.start()
        embedder = Embedder(engine, self._work.arguments, ParquetSource.unit)
        self._probe = (await embedder.probe()).tolist()
        self._embedder = embedder
        return Outcome(0)

    async def _embed(self, shard: Shard) -> Outcome:
        assert self._embedder is not None
        rows = _Rows()
        job = Job(self._embedder, rows, Meter(None), _NoDisplay())
        await job.run(self._read(shard))
        await asyncio.to_thread(self._write, shard.number, rows)
        return Outcome(shard.number, Counts(*rows.counts), self._probe)

    def _read(self, shard: Shard) -> Iterator[Todo]:
        place = find_place(self._work.arguments.file_given)
        for span in shard.spans:
            with _open(place, span.path) as stream:
                rows = range(span.start, span.stop)
                source = ParquetSource(stream, self._work.arguments.column, rows)
                for chunk in source.chunks():
                    places = [f"{number} of {span.path}" for number in chunk.places]
                    yield Todo(replace(chunk, places=places), b"")

    def _write(self, number: int, rows: _Rows) -> None:
        sink = pa.BufferOutputStream()
        count = rows.counts[0]
        finished = FinishedRows(rows.read, self._work.schema, count, len(self._probe))
        write_output(sink, finished, self._work.arguments)
        write_part(self._work.parts, number, sink.getvalue())


def _open(place: Place, path: str) -> pa.NativeFile:
    try:
        return place.system.open_input_file(path)
    except FileNotFoundError:
        raise BulkFault(
            f"a machine of the cluster has no file {path}; the input has to be on a disk that all"
            " of them share, or be given as a URI"
        ) from None


class _Rows:
    """Finished rows in memory; see :class:`appliance.bulk.job.Sink`."""

    def __init__(self) -> None:
        self._batches: list[pa.RecordBatch] = []
        self.counts = [0, 0, 0, 0]

    def add(self, item: Todo, embedded: Embedded) -> None:
        chunk: Chunk = item.chunk
        self._batches.append(with_vectors(chunk.rows, embedded))
        new = (len(chunk.rows), embedded.tokens, embedded.truncated, int(embedded.empty.sum()))
        self.counts = [before + more for before, more in zip(self.counts, new, strict=True)]

    async def write_if_due(self) -> None:
        """They are written at once, when all are there."""

    def close(self) -> None:
        """There is nothing to close."""

    def read(self) -> Iterator[pa.RecordBatch]:
        return iter(self._batches)


class _NoDisplay:
    def show(self, meter: object) -> None:
        """Progress is shown where the command runs."""
