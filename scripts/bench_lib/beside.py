# SPDX-License-Identifier: Apache-2.0
"""A lone client's short texts beside another's endless stream of huge calls."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event
from typing import TYPE_CHECKING

from bench_lib.client import lone_answers
from bench_lib.load import request_bodies
from bench_lib.results import Beside
from bench_lib.servers import MODEL

if TYPE_CHECKING:
    from bench_lib.client import Endpoint, LoneAnswer
    from bench_lib.load import Load

__all__ = ["measure_beside"]

HEAD_START_SECONDS = 1.0
"""After which the first huge call is at work."""

BATCH = "forward"
"""Name in `server-timing` of the time from a request's first batch to its last. For a request of
one text that is the batch that the text shares with texts of the stream."""


def measure_beside(endpoint: Endpoint, load: Load, requests: int, seconds: float) -> Beside:
    """Send the load in one call, over and over, and a short text beside it.

    Args:
        endpoint: The server.
        load: Its texts all go into each huge call.
        requests: Most short texts to send.
        seconds: Longest to go on.
    """
    (huge,) = request_bodies(load.texts, len(load.texts), MODEL)
    (short,) = request_bodies([load.lone_text], 1, MODEL)
    stop = Event()
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(_stream, endpoint, huge, stop)
        try:
            time.sleep(HEAD_START_SECONDS)
            answers = _ask(endpoint, short, requests, seconds)
        finally:
            stop.set()
        calls, stream_seconds = stream.result()
    return Beside(
        milliseconds=[answer.milliseconds for answer in answers],
        batch_milliseconds=[
            answer.server_timing[BATCH] for answer in answers if BATCH in answer.server_timing
        ],
        stream_tokens_per_second=calls * load.tokens / stream_seconds,
    )


def _stream(endpoint: Endpoint, body: bytes, stop: Event) -> tuple[int, float]:
    """How many calls were made until told to stop, and the seconds they took."""
    start = time.perf_counter()
    with closing(lone_answers(endpoint, body)) as answers:
        calls = 0
        for _ in answers:
            calls += 1
            if stop.is_set():
                break
    return calls, time.perf_counter() - start


def _ask(endpoint: Endpoint, body: bytes, requests: int, seconds: float) -> list[LoneAnswer]:
    end = time.perf_counter() + seconds
    found: list[LoneAnswer] = []
    with closing(lone_answers(endpoint, body)) as answers:
        for answer in answers:
            found.append(answer)
            if len(found) >= requests or time.perf_counter() > end:
                break
    return found
