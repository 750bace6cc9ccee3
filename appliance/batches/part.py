# SPDX-License-Identifier: Apache-2.0
"""The rows of a batch while it runs: a file that tells by itself how far the batch has come.

Row for row, it answers the requests of the input in their order, be the answers good or not. So the
number of its whole rows is the number of requests that are done, whenever the process was killed or
the power went; what is behind the last whole row is cut away.

Form of a row: https://platform.openai.com/docs/api-reference/batch/request-output
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import msgspec

from appliance.durable import sync_folder, write_durably

__all__ = ["Answer", "Part", "Tally", "expired_row", "row"]


class Answer(msgspec.Struct, frozen=True):
    """What a request is answered.

    Attributes:
        status_code: Of HTTP.
        body: JSON.
        tokens: That a model read for it.
    """

    status_code: int
    body: bytes
    tokens: int = 0

    @property
    def is_good(self) -> bool:
        """Whether it is what was asked for."""
        return self.status_code == 200


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _Fault(msgspec.Struct):
    code: str
    message: str


class _Row(msgspec.Struct):
    id: str
    custom_id: str
    response: _Response | None
    error: _Fault | None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _SeenBody(msgspec.Struct):
    usage: _Usage | None = None


class _SeenResponse(msgspec.Struct):
    status_code: int
    body: _SeenBody


class _SeenRow(msgspec.Struct):
    """What is looked at of a row that was written before."""

    custom_id: str
    response: _SeenResponse | None


class Tally(msgspec.Struct):
    """Rows, counted.

    Attributes:
        completed: Good answers.
        failed: Others.
        tokens: That models read for them.
    """

    completed: int = 0
    failed: int = 0
    tokens: int = 0

    @property
    def rows(self) -> int:
        """All of them."""
        return self.completed + self.failed

    def add(self, *, is_good: bool, tokens: int) -> None:
        """Count a row."""
        self.completed += is_good
        self.failed += not is_good
        self.tokens += tokens


_encode = msgspec.json.Encoder().encode
_seen = msgspec.json.Decoder(_SeenRow)
_OK = 200


def row(custom_id: str, answer: Answer) -> bytes:
    """A line that tells the answer to a request."""
    response = _Response(answer.status_code, secrets.token_hex(16), msgspec.Raw(answer.body))
    return _encode(_Row(_row_id(), custom_id, response, None)) + b"\n"


def expired_row(custom_id: str) -> bytes:
    """A line that tells that there was no time for a request."""
    fault = _Fault(
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    )
    return _encode(_Row(_row_id(), custom_id, None, fault)) + b"\n"


def _row_id() -> str:
    return f"batch_req_{secrets.token_hex(16)}"


class Part:
    """The file. All methods block, and raise OSError where there is no room.

    Args:
        path: Where it is, or will be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    @property
    def exists(self) -> bool:
        """Whether it is there."""
        return self._path.exists()

    def open(self) -> Tally:
        """Cut it back to its whole rows and go on behind them; how many there are."""
        is_new = not self.exists
        self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        tally, size = Tally(), 0
        for length, is_good, tokens in _whole_rows(self._file):
            size += length
            tally.add(is_good=is_good, tokens=tokens)
        self._file.truncate(size)
        self._file.seek(size)
        if is_new:
            sync_folder(self._path.parent)
        return tally

    def append(self, rows: bytes | bytearray) -> None:
        """Add rows."""
        assert self._file is not None
        self._file.write(rows)
        self._file.flush()

    def sync(self) -> None:
        """Bring what was added to disk."""
        assert self._file is not None
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Delete it, if it is there."""
        self._path.unlink(missing_ok=True)

    def turn_into(self, output: Path, error: Path, tally: Tally) -> None:
        """Put its rows where they belong, each kind in a file of its own.

        A kill in the middle does not matter, if this is called again: the file is moved as a whole
        where its rows are of one kind, and else stays until it is removed.
        """
        if not self.exists:
            return
        if tally.completed and tally.failed:
            self._split(output, error)
        elif tally.rows:
            self._path.replace(output if tally.completed else error)
            sync_folder(self._path.parent)

    def _split(self, output: Path, error: Path) -> None:
        with ExitStack() as stack:
            rows = stack.enter_context(self._path.open("rb"))
            good = stack.enter_context(write_durably(output))
            others = stack.enter_context(write_durably(error))
            kinds = self._path.open("rb")
            stack.enter_context(kinds)
            for length, is_good, _ in _whole_rows(kinds):
                (good if is_good else others).write(rows.read(length))


def _whole_rows(file: BinaryIO) -> Iterator[tuple[int, bool, int]]:
    """Each row's length, whether it is good, and its tokens, up to the first that is not whole."""
    for line in file:
        if not line.endswith(b"\n"):
            return
        try:
            response = _seen.decode(line).response
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        usage = None if response is None else response.body.usage
        is_good = response is not None and response.status_code == _OK
        yield len(line), is_good, 0 if usage is None else usage.prompt_tokens
