# SPDX-License-Identifier: Apache-2.0
"""A job as the event loop sees it: handed over, waited for, and taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from appliance.engine.jobs import Job
from appliance.engine.lane import Lane
from appliance.engine.types import Output, Priority, TokenArray

__all__ = ["Patience", "compute"]

Finished = TypeVar("Finished")


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
    finish: Callable[[Any], Finished],
    priority: Priority = "normal",
    patience: Patience | None = None,
    trace: object | None = None,
    output: Output = "dense",
    second_starts: Sequence[int] = (),
) -> tuple[Job, Finished]:
    """Have texts computed. Whoever is cancelled meanwhile takes back what still waits.

    Args:
        lane: The model.
        texts: Ids of each text.
        unpooled: As in :class:`~appliance.engine.jobs.Job`.
        finish: Makes the answer of the :data:`~appliance.engine.types.Rows`, and never ``None``; on
            a worker's thread.
        priority: Class among the jobs that wait.
        patience: How long it may wait. Unset: for ever.
        trace: As in :class:`~appliance.engine.jobs.Job`.
        output: What is to be made of each text.
        second_starts: As in :class:`~appliance.engine.jobs.Job`.

    Returns:
        The job, and what ``finish`` made.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Finished] = loop.create_future()
    job = Job(
        texts,
        lambda job: _hand_over(job, finish, loop, future),
        unpooled,
        priority,
        trace,
        output,
        second_starts,
    )
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
    finish: Callable[[Any], Finished],
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[Finished],
) -> None:
    answer, error = None, job.error
    if job.rows is not None and error is None:
        try:
            answer = finish(job.rows)
        except Exception as fault:  # whatever it is, the request is answered
            error = fault
    with suppress(RuntimeError):  # the loop has closed: nobody waits any more
        loop.call_soon_threadsafe(_resolve, future, answer, error)


def _resolve(
    future: asyncio.Future[Finished], answer: Finished | None, error: BaseException | None
) -> None:
    if future.done():
        return
    if answer is not None:
        future.set_result(answer)
    elif error is not None:
        future.set_exception(error)


def _give_up(lane: Lane, job: Job, patience: Patience) -> None:
    lane.give_up(job, patience.error())
