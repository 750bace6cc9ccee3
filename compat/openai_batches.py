# SPDX-License-Identifier: Apache-2.0
"""OpenAI's Batch API, for embeddings.

Wire format: https://platform.openai.com/docs/api-reference/batch
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from appliance.api.queries import refuse_unknown
from appliance.auth import visit_of
from appliance.batches.records import Page
from appliance.batches.service import Batches
from appliance.engine.service import Engine
from appliance.errors import Conflict, ObjectNotFound
from appliance.openapi.headers import OPENAI_HEADERS
from appliance.openapi.operations import operation
from compat.handling import read_request
from compat.openai_batch_types import BatchList, BatchObject, BatchRequest, batch_object
from compat.openai_errors import openai_headers

__all__ = ["BatchesController"]

MOST_LISTED = 100

_decoder = msgspec.json.Decoder(BatchRequest)


class BatchesController(Controller):
    """The routes."""

    tags = ("Batches",)

    @post(
        "/v1/batches",
        status_code=200,
        operation_class=operation(
            Conflict,
            body=BatchRequest,
            example={
                "input_file_id": "file-0123456789abcdef01234567",
                "endpoint": "/v1/embeddings",
                "completion_window": "24h",
            },
            headers=OPENAI_HEADERS,
        ),
    )
    async def create(
        self,
        request: Request[Any, Any, Any],
        engine: NamedDependency[Engine],
        batches: NamedDependency[Batches],
    ) -> Response[BatchObject]:
        """Have the requests in a file answered, behind whatever is asked for live.

        What is wrong with the file is told by the batch, whose status becomes `failed`.
        """
        batches.check()
        asked = (await read_request(request, engine, _decoder)).body
        expires = asked.output_expires_after
        made = await batches.create(
            visit_of(request).grant,
            asked.input_file_id,
            asked.metadata,
            None if expires is None else expires.seconds,
        )
        return Response(batch_object(made), headers=openai_headers(request))

    @get("/v1/batches", operation_class=operation(Conflict, headers=OPENAI_HEADERS))
    async def batches(
        self,
        request: Request[Any, Any, Any],
        batches: NamedDependency[Batches],
        after: Annotated[
            str | None, QueryParameter(description="Only those behind the batch of this id.")
        ] = None,
        limit: Annotated[
            int, QueryParameter(ge=1, le=MOST_LISTED, description="Most batches.")
        ] = 20,
    ) -> Response[BatchList]:
        """List the batches that were made with the key, the newest first."""
        refuse_unknown(request, "after", "limit")
        found, has_more = await batches.list_batches(visit_of(request).grant, Page(after, limit))
        data = [batch_object(batch) for batch in found]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return Response(BatchList(data, first, last, has_more), headers=openai_headers(request))

    @get(
        "/v1/batches/{batch_id:str}",
        operation_class=operation(Conflict, ObjectNotFound, headers=OPENAI_HEADERS),
    )
    async def batch(
        self,
        request: Request[Any, Any, Any],
        batches: NamedDependency[Batches],
        batch_id: FromPath[str],
    ) -> Response[BatchObject]:
        """Tell where a batch stands."""
        found = await batches.batch(visit_of(request).grant, batch_id)
        return Response(batch_object(found), headers=openai_headers(request))

    @post(
        "/v1/batches/{batch_id:str}/cancel",
        status_code=200,
        operation_class=operation(Conflict, ObjectNotFound, headers=OPENAI_HEADERS),
    )
    async def cancel(
        self,
        request: Request[Any, Any, Any],
        batches: NamedDependency[Batches],
        batch_id: FromPath[str],
    ) -> Response[BatchObject]:
        """Cancel a batch; the answers that are there by then are kept."""
        found = await batches.cancel(visit_of(request).grant, batch_id)
        return Response(batch_object(found), headers=openai_headers(request))
