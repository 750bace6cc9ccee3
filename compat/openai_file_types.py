# SPDX-License-Identifier: Apache-2.0
"""What OpenAI's API of files is asked and answers, field by field."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from appliance.batches.records import StoredFile

__all__ = [
    "MOST_SECONDS",
    "SOONEST_SECONDS",
    "FileDeleted",
    "FileForm",
    "FileList",
    "FileObject",
    "file_object",
]

SOONEST_SECONDS, MOST_SECONDS = 3600, 30 * 24 * 3600
"""Ages at which a file may be deleted: an hour to thirty days."""


def _also(**schema: object) -> msgspec.Meta:
    return msgspec.Meta(extra_json_schema=schema)


class FileForm(msgspec.Struct, forbid_unknown_fields=True):
    """A file to keep.

    Attributes:
        file: Its content: requests, one a line.
        purpose: What it is for.
    """

    file: Annotated[str, _also(format="binary")]
    purpose: Literal["batch"]


class FileObject(msgspec.Struct):
    """A file.

    Attributes:
        id: Names it.
        bytes: Its size.
        created_at: When it came, in Unix seconds.
        filename: What its maker calls it.
        purpose: ``batch``; of results ``batch_output``.
        status: Always ``processed``.
        expires_at: When it will be deleted, if it ever is.
        status_details: Always ``null``.
    """

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"
    expires_at: int | None = None
    status_details: None = None
    object: Literal["file"] = "file"


class FileDeleted(msgspec.Struct):
    """A file that is there no more.

    Attributes:
        id: What named it.
        deleted: Always true.
    """

    id: str
    deleted: Literal[True] = True
    object: Literal["file"] = "file"


class FileList(msgspec.Struct):
    """Files.

    Attributes:
        data: The files.
        first_id: Id of the first of them.
        last_id: Id of the last of them, to ask for those after it.
        has_more: Whether there are any.
    """

    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


def file_object(file: StoredFile) -> FileObject:
    """A file, as it is shown."""
    return FileObject(
        file.id,
        file.bytes,
        file.created_at,
        file.filename,
        file.purpose,
        expires_at=file.expires_at,
    )
