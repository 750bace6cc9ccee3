# SPDX-License-Identifier: Apache-2.0
"""What is kept of a file and of a batch."""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Literal, get_args

import msgspec

__all__ = [
    "ENDPOINT",
    "OPEN_STATUSES",
    "RESULT_KINDS",
    "WINDOW_SECONDS",
    "Batch",
    "Ending",
    "LineError",
    "Order",
    "Page",
    "ResultKind",
    "Status",
    "StoredFile",
    "new_batch",
    "new_file_id",
    "result_file_id",
]

Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
Ending = Literal["completed", "expired", "cancelled"]
ResultKind = Literal["output", "error"]
RESULT_KINDS: tuple[ResultKind, ...] = get_args(ResultKind)

OPEN_STATUSES: tuple[Status, ...] = ("validating", "in_progress", "finalizing", "cancelling")
"""Those of a batch that there is work on yet."""

Order = Literal["asc", "desc"]

ENDPOINT = "/v1/embeddings"
WINDOW_SECONDS = 24 * 3600


class StoredFile(msgspec.Struct, frozen=True):
    """A file.

    Attributes:
        id: Names it.
        owner: The stored token whose it is; ``None``: who has a key of the settings.
        filename: As its maker calls it.
        purpose: ``batch``, or ``batch_output`` for what came of one.
        bytes: Its size.
        created_at: When it came, in Unix seconds.
        expires_at: When it will be deleted; ``None``: never.
    """

    id: str
    owner: str | None
    filename: str
    purpose: Literal["batch", "batch_output"]
    bytes: int
    created_at: int
    expires_at: int | None = None


class LineError(msgspec.Struct, frozen=True):
    """What is wrong with an input file.

    Attributes:
        code: Kind of error.
        message: For people.
        param: Field that is at fault, if one is.
        line: Number of its line, from 1 on, if it is one line's.
    """

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch. Moments are Unix seconds.

    Attributes:
        id: Names it.
        owner: As of :class:`StoredFile`.
        input_file_id: The file with its requests.
        endpoint: The route that they are for.
        completion_window: The time for it, as its maker has put it.
        metadata: Whatever its maker notes of it.
        output_expires_seconds: Age at which its results are deleted; ``None``: never.
        created_at: When it was made.
        expires_at: When no more of its requests are answered.
        status: Where it stands.
        in_progress_at: When its file had been found good.
        finalizing_at: When its last request had been answered.
        completed_at: When its results were there.
        failed_at: When its file had been found not to be good.
        expired_at: When its results were there, for want of time not all.
        cancelling_at: When its cancelling was asked for.
        cancelled_at: When it had ended for that.
        errors: Why it failed.
        model: Model of its requests, if it is the same of all.
        total: How many requests there are; 0 until that is known.
        completed: How many were answered well.
        failed: How many were not.
        tokens: That models read for it.
        output_file_id: The file with good answers, once it has ended and if there are any.
        error_file_id: The same of the others.
        ending: How it ends, once its last row is written; its files are yet to be put in place.
        holder: The process that works on it.
        beat: Counts up while that is alive.
    """

    id: str
    owner: str | None
    input_file_id: str
    endpoint: str = ENDPOINT
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None
    output_expires_seconds: int | None = None
    created_at: int
    expires_at: int
    status: Status = "validating"
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    errors: list[LineError] | None = None
    model: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    tokens: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    ending: Ending | None = None
    holder: str | None = None
    beat: int = 0


class Page(msgspec.Struct, frozen=True):
    """Where a list begins and how far it goes.

    Attributes:
        after: Id of the last one that was listed before; ``None``: from the first on.
        limit: Most that are listed.
        order: By age.
    """

    after: str | None = None
    limit: int = 20
    order: Order = "desc"


def new_batch(
    owner: str | None,
    input_file_id: str,
    metadata: dict[str, str] | None,
    output_expires_seconds: int | None,
) -> Batch:
    """A batch that begins now."""
    now = int(time.time())
    return Batch(
        id=f"batch_{secrets.token_hex(16)}",
        owner=owner,
        input_file_id=input_file_id,
        metadata=metadata,
        output_expires_seconds=output_expires_seconds,
        created_at=now,
        expires_at=now + WINDOW_SECONDS,
    )


def new_file_id() -> str:
    """An id that no file has."""
    return f"file-{secrets.token_hex(12)}"


def result_file_id(batch_id: str, kind: ResultKind) -> str:
    """The id that a file of results has, whoever puts it in place, and however often."""
    return f"file-{hashlib.sha256(f'{batch_id}/{kind}'.encode()).hexdigest()[:24]}"
