# SPDX-License-Identifier: Apache-2.0
"""Reading on another thread, from an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from typing import TypeVar

__all__ = ["read_ahead"]

Item = TypeVar("Item")


async def read_ahead(items: Iterator[Item], depth: int) -> AsyncGenerator[Item, None]:
    """Iterate on a thread of its own, which may wait for ever and yet holds up no one."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[Item] | Exception | None] = asyncio.Queue()
    room = threading.Semaphore(depth)
    left = threading.Event()

    def take() -> tuple[Item] | Exception | None:
        try:
            return (next(items),)
        except StopIteration:
            return None
        except Exception as error:  # it is the caller's, whatever it is
            return error

    def work() -> None:
        with suppress(RuntimeError):  # the loop has ended
            while True:
                room.acquire()
                if left.is_set():
                    return
                got = take()
                loop.call_soon_threadsafe(queue.put_nowait, got)
                if not isinstance(got, tuple):
                    return

    threading.Thread(target=work, name="read", daemon=True).start()
    try:
        while isinstance(got := await queue.get(), tuple):
            room.release()
            yield got[0]
        if got is not None:
            raise got
    finally:
        left.set()
        room.release()
