# SPDX-License-Identifier: Apache-2.0
"""Child processes: started in a group of their own, measured through /proc, stopped with care."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

__all__ = ["OFFLINE", "SCRIPTS", "CpuMeter", "Process", "busy_core", "tree"]

SCRIPTS = Path(__file__).parent.parent
"""The folder to import `bench_lib` from."""

OFFLINE: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
}
"""No system may reach out while it is measured, nor tell anyone that it was."""

STOP_SECONDS = 15.0
SETTLE_SECONDS = 0.5
TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """A child with its log in a file; stopped when the `with` block ends."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *,
        talks: bool = False,
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self.child = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **OFFLINE, **(environment or {})},
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else output,
                stderr=output,
                text=True,
                start_new_session=True,
            )
        self.started = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGTERM)
            try:
                self.child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self.child.pid, signal.SIGKILL)
                self.child.wait()
        for pipe in (self.child.stdin, self.child.stdout):
            if pipe is not None:
                pipe.close()

    def require_alive(self) -> None:
        code = self.child.poll()
        if code is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])
            raise RuntimeError(f"{self.child.args!r} ended with {code}; {self.log} ends:\n{tail}")

    def peak_bytes(self) -> int:
        """Sum of the peaks of the tree's processes: shared pages count once for each."""
        return sum(_peak_bytes(process) for process in tree(self.child.pid))


@contextmanager
def busy_core() -> Iterator[int]:
    """Keep the machine's last core busy, and yield the process that does."""
    core = max(os.sched_getaffinity(0))
    loop = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    child = subprocess.Popen([sys.executable, "-S", "-c", loop])
    try:
        time.sleep(SETTLE_SECONDS)
        yield child.pid
    finally:
        child.kill()
        child.wait()


def tree(root: int) -> set[int]:
    """The process and its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found: set[int] = set()
    waiting = [root]
    while waiting:
        process = waiting.pop()
        found.add(process)
        waiting.extend(children.get(process, []))
    return found


def _stat(process: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on (the name before it may hold anything)."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _peak_bytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


class CpuMeter:
    """How much of the machine others used (other processes, idle servers, the hypervisor).

    Not counted are this process and the trees of those named.
    """

    def __init__(self, *measured: int) -> None:
        self.measured = {os.getpid()}.union(*(tree(process) for process in measured))
        self.start = time.perf_counter()
        self.busy = _busy_seconds()
        self.ours = self._our_seconds()

    def _our_seconds(self) -> float:
        stats = (_stat(process) for process in self.measured)
        return sum(int(fields[11]) + int(fields[12]) for fields in stats if fields) / TICKS

    def foreign_share(self) -> float:
        """Of the whole machine's time since the start."""
        whole = (time.perf_counter() - self.start) * (os.cpu_count() or 1)
        busy = _busy_seconds() - self.busy
        return max(0.0, busy - (self._our_seconds() - self.ours)) / whole


def _busy_seconds() -> float:
    """CPU time of the whole machine that was not idle: user to steal, less idle and iowait."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS
