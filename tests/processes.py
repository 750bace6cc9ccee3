# SPDX-License-Identifier: Apache-2.0
"""Processes that have imported what a server needs before they begin.

To read torch and transformers takes seconds of a core, and the tests start more than a hundred
servers. So a process that has read them, and has done nothing else, forks one for each. What comes
of it is what ``appliance serve`` is: with a pid, an environment, signals and an exit code of its
own.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import IO

from appliance.cli import main

__all__ = ["ForkedProcess", "Process", "forks"]

# The only one of its kind: what is asked of another would be that of the first, or take its place.
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(
    ["appliance.server", "appliance.engine.loading", "appliance.bulk.command"]
)


class ForkedProcess:
    """``python -m appliance serve``, or code, in a fork; used like :class:`subprocess.Popen`.

    Args:
        flags: Of ``appliance serve``, or what the code finds in ``sys.argv``.
        environment: All of its variables. Those that libraries look at as they are imported are
            without effect.
        code: What to run in place of ``appliance serve``.

    Attributes:
        stderr: What it writes there.
        pid: Its number.
    """

    def __init__(
        self, flags: Sequence[str], environment: Mapping[str, str], code: str = ""
    ) -> None:
        ours, theirs = forks.Pipe(duplex=False)
        arguments = (theirs, list(flags), dict(environment), code)
        self._process = forks.Process(target=_run, args=arguments)
        self._process.start()
        theirs.close()
        self.stderr: IO[str] | None = os.fdopen(os.dup(ours.fileno()), encoding="utf-8")
        ours.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus the number of the signal it died of, or nothing while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """See :attr:`returncode`."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: It still runs after so many seconds.
        """
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("appliance serve", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):  # it has ended, and we have not been told yet
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Tell it to stop."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


Process = ForkedProcess | subprocess.Popen[str]


def _run(stderr: Connection, flags: list[str], environment: dict[str, str], code: str) -> None:
    os.dup2(stderr.fileno(), 2)
    stderr.close()
    os.environ.clear()
    os.environ.update(environment)
    try:
        if code:
            sys.argv = ["-c", *flags]
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.exit(main(["serve", *flags]))
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out
