# SPDX-License-Identifier: Apache-2.0
"""The way of rows from the input through the engine into the work folder.

A thread reads chunks ahead. Several of them are in the engine at once, so that texts of all lengths
fill the device's batches and it never waits for the next. Their vectors are taken in the order of
the input, gathered, and every few seconds written to disk by another thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from appliance.bulk.ahead import read_ahead
from appliance.bulk.chunks import Chunk, Source, Todo, chain_digest
from appliance.bulk.embedder import Embedded, Embedder
from appliance.bulk.faults import CommandFault
from appliance.bulk.folder import Manifest
from appliance.bulk.progress import Display, Meter

__all__ = ["Job", "Sink", "still_to_do"]

LEAST_IN_FLIGHT, MOST_IN_FLIGHT = 2, 256
BYTES_IN_FLIGHT = 32 * 2**20
"""Chunks in the engine, and what they hold."""

QUICK_SECONDS, SLOW_SECONDS = 1.0, 2.0
"""A chunk that comes back sooner lets one more into the engine, one that takes longer keeps one
out. So the fastest device has enough to do, and little is lost on the slowest if it is stopped."""

CHUNKS_READ_AHEAD = 4
IDLE_SECONDS = 1.0


def still_to_do(source: Source, done: Manifest | None) -> Iterator[Todo]:
    """Pass over the rows that earlier runs have finished, and make sure that they are the same.

    Raises:
        CommandFault: They are not.
    """
    digest, rows = b"", 0
    done_rows, done_digest = (done.rows, bytes.fromhex(done.digest)) if done else (0, b"")
    chunks = source.chunks()
    while rows < done_rows and (chunk := next(chunks, None)) is not None:
        digest = chain_digest(digest, chunk.rows)
        rows += len(chunk.rows)
    if rows != done_rows or digest != done_digest:
        raise CommandFault(
            f"the first {done_rows:,} rows of the input are not those that an earlier run embedded;"
            " bring them back, or start anew with --restart"
        )
    for chunk in chunks:
        digest = chain_digest(digest, chunk.rows)
        yield Todo(chunk, digest)


class Sink(Protocol):
    """Takes finished rows, in the order of the input."""

    def add(self, item: Todo, embedded: Embedded) -> None:
        """Take the next rows."""

    async def write_if_due(self) -> None:
        """Called after each chunk, and while there is none: write what should wait no longer."""

    def close(self) -> None:
        """Called once, behind the last rows, however the work ended."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A chunk that is in the engine."""

    item: Todo
    task: asyncio.Task[Embedded]


class Job:
    """One run over an input.

    Args:
        embedder: The model.
        sink: Takes finished rows.
        meter: Counts what is done.
        display: Shows the meter.
    """

    def __init__(self, embedder: Embedder, sink: Sink, meter: Meter, display: Display) -> None:
        self._embedder = embedder
        self._sink = sink
        self._meter = meter
        self._display = display
        self._begun: asyncio.Queue[Begun | Exception | None] = asyncio.Queue()
        """In the order of the input; behind the last, what the reading of the input ended with."""
        self._tasks: set[asyncio.Task[Embedded]] = set()
        self._bytes_in_flight = 0
        self._allowed_in_flight = 8
        self._room = asyncio.Condition()

    async def run(self, todo: Iterator[Todo]) -> None:
        """Embed all that is to do. However it ends, what is finished is kept.

        Raises:
            BulkFault: A row, the input or the model is at fault.
            OSError: The work folder cannot be written.
        """
        feeding = asyncio.create_task(self._feed(todo))
        try:
            while isinstance(begun := await self._next_begun(), Begun):
                await self._take(begun)
            if begun is not None:
                raise begun
        finally:
            await self._wind_up(feeding)

    async def _feed(self, todo: Iterator[Todo]) -> None:
        """Hand chunks to the engine, as many as it should have at once."""
        end = None
        try:
            async with aclosing(read_ahead(todo, CHUNKS_READ_AHEAD)) as ahead:
                async for item in ahead:
                    async with self._room:
                        await self._room.wait_for(partial(self._has_room, item))
                    self._bytes_in_flight += item.chunk.size
                    task = asyncio.create_task(self._embed(item.chunk))
                    self._tasks.add(task)
                    self._begun.put_nowait(Begun(item, task))
        except Exception as error:  # told once all rows before it are done
            end = error
        self._begun.put_nowait(end)

    def _has_room(self, item: Todo) -> bool:
        fits = self._bytes_in_flight + item.chunk.size <= BYTES_IN_FLIGHT
        return not self._tasks or (fits and len(self._tasks) < self._allowed_in_flight)

    async def _embed(self, chunk: Chunk) -> Embedded:
        started = time.monotonic()
        embedded = await self._embedder.embed(chunk)
        seconds = time.monotonic() - started
        change = 1 if seconds < QUICK_SECONDS else -1 if seconds > SLOW_SECONDS else 0
        allowed = self._allowed_in_flight + change
        self._allowed_in_flight = min(max(allowed, LEAST_IN_FLIGHT), MOST_IN_FLIGHT)
        return embedded

    async def _next_begun(self) -> Begun | Exception | None:
        """The next chunk. While the input has none, finished rows are not held back."""
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    return await self._begun.get()
            except TimeoutError:
                await self._sink.write_if_due()

    async def _take(self, begun: Begun) -> None:
        item, embedded = begun.item, await begun.task
        self._sink.add(item, embedded)
        self._meter.add(len(item.chunk.rows), embedded.tokens, item.chunk.position)
        self._display.show(self._meter)
        await self._sink.write_if_due()
        self._tasks.remove(begun.task)
        self._bytes_in_flight -= item.chunk.size
        async with self._room:
            self._room.notify()

    async def _wind_up(self, feeding: asyncio.Task[None]) -> None:
        """Drop what is not finished and keep what is."""
        tasks = [feeding, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sink.close()
