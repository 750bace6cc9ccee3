# SPDX-License-Identifier: Apache-2.0
"""A job as the event loop sees it: handed over, waited for, and taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from appliance.engine.lane import Lane
from appliance.engine.types import FloatMatrix, Job, Priority, TokenArray, Vectors

__all__ = ["Patience", "compute"]

Finished = TypeVar("Finished", bound=Vectors)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a job may wait before anything of it is computed.

    Attributes:
        seconds: So long.
        error: What it is answered with then.
    """

    seconds: float
    error: Callable[[], Exception]


async def compute(
    lane: Lane,
    texts: Sequence[TokenArray],
    unpooled: int,
    finish: Callable[[FloatMatrix], Finished],
    priority: Priority = "normal",
    patience: Patience | None = None,
    trace: object | None = None,
) -> tuple[Job, Finished]:
    """Have texts computed. Whoever is cancelled meanwhile takes back what still waits.

    Args:
        lane: The model.
        texts: Ids of each text.
        unpooled: As in :class:`~appliance.engine.types.Job`.
        finish: Makes the answer of the vectors; on a worker's thread.
        priority: Class among the jobs that wait.
        patience: How long it may wait. Unset: for ever.
        trace: As in :class:`~appliance.engine.types.Job`.

    Returns:
        The job, and what ``finish`` made.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Finished] = loop.create_future()
    job = Job(texts, lambda job: _hand_over(job, finish, loop, future), unpooled, priority, trace)
    lane.submit(job)
    timer: asyncio.TimerHandle | None = None
    if patience is not None:
        timer = loop.call_later(patience.seconds, _give_up, lane, job, patience)
    try:
        return job, await future
    except asyncio.CancelledError:
        lane.cancel(job)
        raise
    finally:
        if timer is not None:
            timer.cancel()


def _hand_over(
    job: Job,
    finish: Callable[[FloatMatrix], Finished],
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[Finished],
) -> None:
    vectors, error = None, job.error
    if job.vectors is not None and error is None:
        try:
            vectors = finish(job.vectors)
        except Exception as fault:  # whatever it is, the request is answered
            error = fault
    with suppress(RuntimeError):  # the loop has closed: nobody waits any more
        loop.call_soon_threadsafe(_resolve, future, vectors, error)


def _resolve(
    future: asyncio.Future[Finished], vectors: Finished | None, error: BaseException | None
) -> None:
    if future.done():
        return
    if vectors is not None:
        future.set_result(vectors)
    elif error is not None:
        future.set_exception(error)


def _give_up(lane: Lane, job: Job, patience: Patience) -> None:
    lane.give_up(job, patience.error())
