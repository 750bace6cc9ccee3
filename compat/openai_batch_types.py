# SPDX-License-Identifier: Apache-2.0
"""What OpenAI's API of batches is asked and answers, field by field."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from appliance.batches.records import Batch, LineError, Status
from compat.openai_file_types import MOST_SECONDS, SOONEST_SECONDS

__all__ = [
    "BatchList",
    "BatchObject",
    "BatchRequest",
    "batch_object",
]


class ExpiresAfter(msgspec.Struct, forbid_unknown_fields=True):
    """The age at which files are deleted.

    Attributes:
        anchor: What it is counted from.
        seconds: An hour to thirty days.
    """

    anchor: Literal["created_at"]
    seconds: Annotated[int, msgspec.Meta(ge=SOONEST_SECONDS, le=MOST_SECONDS)]


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a new batch shall be.

    Attributes:
        input_file_id: A file of the purpose ``batch``.
        endpoint: The route that its requests are for.
        completion_window: The time after which no more of them are answered.
        metadata: Whatever is to be noted of it: up to 16 keys of up to 64 characters, with values
            of up to 512.
        output_expires_after: The age at which its results are deleted; by default they are kept.
    """

    input_file_id: str
    endpoint: Literal["/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: (
        Annotated[
            dict[
                Annotated[str, msgspec.Meta(max_length=64)],
                Annotated[str, msgspec.Meta(max_length=512)],
            ],
            msgspec.Meta(max_length=16),
        ]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None


class BatchError(msgspec.Struct):
    """What is wrong with an input file.

    Attributes:
        code: Kind of error.
        message: For people.
        param: The field that is at fault, if one is.
        line: The number of its line, if it is one line's.
    """

    code: str
    message: str
    param: str | None
    line: int | None


class BatchErrors(msgspec.Struct):
    """Why a batch failed.

    Attributes:
        data: The first hundred faults.
    """

    data: list[BatchError]
    object: Literal["list"] = "list"


class RequestCounts(msgspec.Struct):
    """How far a batch has come.

    Attributes:
        total: Requests that it has; 0 until they have been counted.
        completed: Those that were answered well.
        failed: Those that were not.
    """

    total: int
    completed: int
    failed: int


class InputTokensDetails(msgspec.Struct):
    """Tokens that were read, closer.

    Attributes:
        cached_tokens: Always 0.
    """

    cached_tokens: int = 0


class OutputTokensDetails(msgspec.Struct):
    """Tokens that were written, closer.

    Attributes:
        reasoning_tokens: Always 0.
    """

    reasoning_tokens: int = 0


class BatchUsage(msgspec.Struct):
    """What a batch took.

    Attributes:
        input_tokens: Tokens that models read for it.
        input_tokens_details: The same, closer.
        output_tokens: Always 0.
        output_tokens_details: The same, closer.
        total_tokens: As ``input_tokens``.
    """

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class BatchObject(msgspec.Struct):
    """A batch. Moments are Unix seconds, and ``null`` until they have come.

    Attributes:
        id: Names it.
        endpoint: The route that its requests are for.
        model: The model that they are for, if it is the same of all.
        errors: Why it failed, if it did.
        input_file_id: The file with its requests.
        completion_window: The time after which no more of them are answered.
        status: Where it stands.
        output_file_id: The file with good answers, once it has ended and if there are any.
        error_file_id: The file with the others, likewise.
        created_at: When it was made.
        in_progress_at: When its file had been found good.
        expires_at: When no more of its requests are answered.
        finalizing_at: When its last request had been answered.
        completed_at: When its results were there.
        failed_at: When its file had been found not to be good.
        expired_at: When its results were there, for want of time not all.
        cancelling_at: When its cancelling was asked for.
        cancelled_at: When it had ended for that.
        request_counts: How far it has come.
        usage: What it took so far.
        metadata: What its maker has noted of it.
    """

    id: str
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str] | None
    object: Literal["batch"] = "batch"


class BatchList(msgspec.Struct):
    """Batches, the newest first.

    Attributes:
        data: The batches.
        first_id: Id of the first of them.
        last_id: Id of the last of them, to ask for those after it.
        has_more: Whether there are any.
    """

    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


def batch_object(batch: Batch) -> BatchObject:
    """A batch, as it is shown."""
    shown = {
        name: getattr(batch, name)
        for name in BatchObject.__struct_fields__
        if name in Batch.__struct_fields__
    }
    usage = BatchUsage(
        batch.tokens, InputTokensDetails(), 0, OutputTokensDetails(), total_tokens=batch.tokens
    )
    counts = RequestCounts(batch.total, batch.completed, batch.failed)
    errors = None if batch.errors is None else BatchErrors(list(map(_error, batch.errors)))
    return BatchObject(**{**shown, "errors": errors}, request_counts=counts, usage=usage)


def _error(error: LineError) -> BatchError:
    return BatchError(error.code, error.message, error.param, error.line)
