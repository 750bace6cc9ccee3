# SPDX-License-Identifier: Apache-2.0
"""The way of a request, from its body to its answer."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from litestar import Request, Response

from appliance.auth import Visit
from appliance.context import elapsed_milliseconds
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.engine.types import Answer
from compat.handling import admit, read_request, work_on
from compat.rendering import off_the_loop, server_timing
from compat.tei.kinds import Ask, ask_by_kind
from compat.tei.tasks import Task

__all__ = ["HttpRequest", "answer", "invoke", "read", "work"]

PAYLOAD_LIMIT = 2_000_000
"""Bytes of a body, where the model's settings name no limit; TEI's."""

Body = TypeVar("Body")
HttpRequest = Request[Any, Any, Any]

_unparsed = msgspec.json.Decoder(msgspec.Raw)


async def read(
    request: HttpRequest,
    engine: Engine,
    model: ServedModel,
    decoder: msgspec.json.Decoder[Body],
) -> tuple[Body, Visit]:
    """Read a body, parse it, and let the request in.

    Raises:
        ApplianceError: As of :func:`~compat.handling.read_request` and
            :func:`~compat.handling.admit`.
    """
    asked = await read_request(request, engine, decoder)
    return asked.body, admit(request, model, asked, PAYLOAD_LIMIT)


async def answer(
    request: HttpRequest, engine: Engine, model: ServedModel, ask: Ask[Any]
) -> Response[bytes]:
    """Answer a request of one kind."""
    asked, visit = await read(request, engine, model, ask.decoder)
    return await work(request, engine, model, visit, ask.task(engine, model, asked))


async def invoke(request: HttpRequest, engine: Engine, model: ServedModel) -> Response[bytes]:
    """Answer a request whose kind is the model's."""
    unparsed, visit = await read(request, engine, model, _unparsed)
    body = bytes(unparsed)
    ask = ask_by_kind((await engine.card(model)).kind, body)
    return await work(request, engine, model, visit, ask.parse(engine, model, body))


async def work(
    request: HttpRequest, engine: Engine, model: ServedModel, visit: Visit, task: Task[Any]
) -> Response[bytes]:
    """Have a request's work done, and answer with it."""
    result = await work_on(request, visit, task.inputs, task.work())
    content = await off_the_loop(engine, result, lambda: task.render(result))
    headers = _headers(request, model, task, result)
    return Response(content, media_type="application/json", headers=headers)


def _headers(
    request: HttpRequest, model: ServedModel, task: Task[Any], result: Answer
) -> dict[str, str]:
    """What TEI tells of an answer, times in whole milliseconds, and what this server tells."""
    timings = result.timings
    total = str(int(elapsed_milliseconds(request.scope)))
    on_gpu = any(device.startswith("cuda") for copy in model.copies for device in copy.sizes)
    return {
        "x-compute-type": "gpu+optimized" if on_gpu else "cpu+optimized",
        "x-compute-time": total,
        "x-compute-characters": str(task.characters),
        "x-compute-tokens": str(result.tokens),
        "x-total-time": total,
        "x-tokenization-time": str(int(timings.tokenize * 1000)),
        "x-queue-time": str(int(timings.queue * 1000)),
        "x-inference-time": str(int(timings.forward * 1000)),
        "server-timing": server_timing(timings),
    }
