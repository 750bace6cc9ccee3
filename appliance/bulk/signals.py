# SPDX-License-Identifier: Apache-2.0
"""Stopping in order when a signal says so."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stop", "stop_on_signals"]


class Stop:
    """What a signal does: the first lets what is finished be kept, a second does not.

    Attributes:
        signal: Number of the signal that came; 0 if none did.
        cancel: Ends what the event loop runs, while it runs. Unset: ``KeyboardInterrupt`` is
            raised.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.cancel: Callable[[], object] | None = None

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Take a signal."""
        self.signal = number
        signal.signal(number, signal.SIG_DFL)
        if self.cancel is None:
            raise KeyboardInterrupt
        self.cancel()


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Take SIGINT and SIGTERM while the block runs. For the main thread."""
    stop = Stop()
    # A shell that starts a command in the background has it ignore SIGINT, and means it.
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield stop
    finally:
        if not stop.signal:  # else the process ends, and whoever asks again wants it at once
            for number, handler in before.items():
                signal.signal(number, handler)
