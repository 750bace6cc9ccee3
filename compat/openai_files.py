# SPDX-License-Identifier: Apache-2.0
"""OpenAI's API of files: what batches read, and what comes of them.

Wire format: https://platform.openai.com/docs/api-reference/files
"""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Controller, Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from litestar.response import File

from appliance.api.queries import refuse_unknown
from appliance.auth import visit_of
from appliance.batches.records import Order, Page
from appliance.batches.service import Batches
from appliance.engine.service import Engine
from appliance.errors import Conflict, InvalidRequest, ObjectNotFound, StorageFailed
from appliance.forms import Form, read_form
from appliance.openapi.headers import OPENAI_HEADERS
from appliance.openapi.operations import operation
from compat.openai_errors import openai_headers
from compat.openai_file_types import (
    MOST_SECONDS,
    SOONEST_SECONDS,
    FileDeleted,
    FileForm,
    FileList,
    FileObject,
    file_object,
)

__all__ = ["FilesController"]

MOST_BYTES = 200_000_000
MOST_NAME_CHARACTERS = 255
MOST_LISTED = 10_000

PURPOSE = "batch"
_EXPIRY = ("expires_after[anchor]", "expires_after[seconds]")


class FilesController(Controller):
    """The routes."""

    tags = ("Batches",)

    @post(
        "/v1/files",
        status_code=200,
        operation_class=operation(
            Conflict,
            StorageFailed,
            body=FileForm,
            body_type="multipart/form-data",
            headers=OPENAI_HEADERS,
        ),
    )
    async def upload(
        self,
        request: Request[Any, Any, Any],
        engine: NamedDependency[Engine],
        batches: NamedDependency[Batches],
    ) -> Response[FileObject]:
        """Keep a file for a batch to read, of up to 200 MB."""
        grant = visit_of(request).grant
        seconds = engine.settings.request_timeout_seconds
        async with batches.receiving() as (incoming, file_id):
            form = await read_form(
                request, "file", incoming.write, most_bytes=MOST_BYTES, seconds=seconds
            )
            filename, expires_seconds = _filename(form), _expiry(form)
        kept = await batches.keep_file(grant, file_id, filename, form.file_bytes, expires_seconds)
        return Response(file_object(kept), headers=openai_headers(request))

    @get(
        "/v1/files",
        operation_class=operation(Conflict, headers=OPENAI_HEADERS),
    )
    async def files(
        self,
        request: Request[Any, Any, Any],
        batches: NamedDependency[Batches],
        purpose: Annotated[
            str | None, QueryParameter(description="Only files of this purpose.")
        ] = None,
        after: Annotated[
            str | None, QueryParameter(description="Only those behind the file of this id.")
        ] = None,
        limit: Annotated[
            int, QueryParameter(ge=1, le=MOST_LISTED, description="Most files.")
        ] = MOST_LISTED,
        order: Annotated[
            Order, QueryParameter(description="By age: `desc`, the newest first, or `asc`.")
        ] = "desc",
    ) -> Response[FileList]:
        """List the files that were made with the key."""
        refuse_unknown(request, "purpose", "after", "limit", "order")
        grant = visit_of(request).grant
        found, has_more = await batches.list_files(grant, Page(after, limit, order), purpose)
        data = [file_object(file) for file in found]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return Response(FileList(data, first, last, has_more), headers=openai_headers(request))

    @get(
        "/v1/files/{file_id:str}",
        operation_class=operation(Conflict, ObjectNotFound, headers=OPENAI_HEADERS),
    )
    async def file(
        self,
        request: Request[Any, Any, Any],
        batches: NamedDependency[Batches],
        file_id: FromPath[str],
    ) -> Response[FileObject]:
        """Describe a file."""
        found = await batches.file(visit_of(request).grant, file_id)
        return Response(file_object(found), headers=openai_headers(request))

    @get(
        "/v1/files/{file_id:str}/content",
        media_type="application/octet-stream",
        operation_class=operation(Conflict, ObjectNotFound, headers=OPENAI_HEADERS),
    )
    async def content(
        self,
        request: Request[Any, Any, Any],
        batches: NamedDependency[Batches],
        file_id: FromPath[str],
    ) -> File:
        """Read a file."""
        found, path = await batches.content(visit_of(request).grant, file_id)
        return File(
            path,
            filename=found.filename,
            media_type="application/octet-stream",
            headers=openai_headers(request),
        )

    @delete(
        "/v1/files/{file_id:str}",
        status_code=200,
        operation_class=operation(Conflict, ObjectNotFound, headers=OPENAI_HEADERS),
    )
    async def delete_file(
        self,
        request: Request[Any, Any, Any],
        batches: NamedDependency[Batches],
        file_id: FromPath[str],
    ) -> Response[FileDeleted]:
        """Delete a file; not the input of a batch that has not ended."""
        await batches.delete_file(visit_of(request).grant, file_id)
        return Response(FileDeleted(file_id), headers=openai_headers(request))


def _filename(form: Form) -> str:
    """What a good form calls its file.

    Raises:
        InvalidRequest: The form lacks something, or is for another purpose.
    """
    purpose = form.texts.get("purpose")
    if purpose is None:
        raise InvalidRequest("'purpose' is a required property", param="purpose")
    if purpose != PURPOSE:
        raise InvalidRequest(
            f"{purpose!r} is not one of ['{PURPOSE}'] - 'purpose'", param="purpose"
        )
    if form.filename is None:
        raise InvalidRequest("'file' is a required property", param="file")
    if not form.file_bytes:
        raise InvalidRequest("'file' is invalid: it is empty.", param="file")
    if unknown := form.texts.keys() - {"purpose", *_EXPIRY}:
        name = min(unknown)
        raise InvalidRequest(f"Unrecognized request argument supplied: {name}", param=name)
    printable = "".join(character for character in form.filename if character.isprintable())
    return printable[:MOST_NAME_CHARACTERS] or "file"


def _expiry(form: Form) -> int | None:
    """The age at which the file shall be deleted, if it ever shall.

    Raises:
        InvalidRequest: It is none that is allowed.
    """
    anchor, seconds = (form.texts.get(name) for name in _EXPIRY)
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest(
            "'expires_after.anchor' is invalid: it must be 'created_at'.",
            param="expires_after.anchor",
        )
    if seconds is None or not seconds.isdecimal() or len(seconds) > len(str(MOST_SECONDS)):
        number = 0
    else:
        number = int(seconds)
    if not SOONEST_SECONDS <= number <= MOST_SECONDS:
        raise InvalidRequest(
            f"'expires_after.seconds' is invalid: it must be a whole number from {SOONEST_SECONDS}"
            f" to {MOST_SECONDS}.",
            param="expires_after.seconds",
        )
    return number
