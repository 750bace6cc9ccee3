# SPDX-License-Identifier: Apache-2.0
"""The way of a request that every dialect has in common: read it, let it in, have it worked on."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from inspect import iscoroutine
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from litestar import Request

from appliance.auth import Visit, visit_of
from appliance.bodies import check_body_size, parse_body, read_json_body
from appliance.context import while_connected
from appliance.engine.inputs import Inputs
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.engine.types import Timings
from appliance.telemetry.notes import note_inputs, note_whole

__all__ = ["Asked", "admit", "model_name", "read_request", "work_on"]

Body = TypeVar("Body")


class Counted(Protocol):
    """An answer of the engine's."""

    @property
    def tokens(self) -> int:
        """Tokens that the model saw."""

    @property
    def timings(self) -> Timings:
        """Where the time went."""


Answer = TypeVar("Answer", bound=Counted)


@dataclass(frozen=True, slots=True)
class Asked(Generic[Body]):
    """A request that was read and parsed.

    Attributes:
        body: What it says.
        nbytes: Bytes of its body.
    """

    body: Body
    nbytes: int


async def read_request(
    request: Request[Any, Any, Any], engine: Engine, decoder: msgspec.json.Decoder[Body]
) -> Asked[Body]:
    """Read a JSON body and parse it.

    Raises:
        ApplianceError: See :func:`~appliance.bodies.read_json_body` and
            :func:`~appliance.bodies.parse_body`.
    """
    body = await read_json_body(
        request, engine.settings.request_timeout_seconds, engine.largest_payload
    )
    return Asked(parse_body(body, decoder), len(body))


def model_name(owner: str | None, name: str) -> str:
    """The name in a path; a hub name has a slash in it."""
    return name if owner is None else f"{owner}/{name}"


def admit(
    request: Request[Any, Any, Any],
    model: ServedModel,
    asked: Asked[Any],
    payload_limit: int | None = None,
) -> Visit:
    """Hold a request against what its key and its model allow.

    Args:
        request: The request.
        model: The model that it is for.
        asked: What was read of it.
        payload_limit: Most bytes, where the model's settings name none. Unset: their default.

    Raises:
        ModelNotAllowed: The key is not good for the model.
        PayloadTooLarge: The body is larger than the model takes.
    """
    visit = visit_of(request)
    visit.check_model(model.names)
    check_body_size(asked.nbytes, model.settings, payload_limit)
    return visit


async def work_on(
    request: Request[Any, Any, Any], visit: Visit, inputs: Inputs, work: Awaitable[Answer]
) -> Answer:
    """Wait for the engine's answer while the client does, and count its tokens to the key.

    Args:
        request: The request, its body read.
        visit: As it was let in.
        inputs: Its inputs, for a guess where the key has a quota.
        work: Makes the answer.

    Raises:
        TokensExceeded: The key's quota does not have as many.
        ClientLeft: The connection was closed first.
    """
    note_inputs(len(inputs.items), single=inputs.single)
    try:
        async with visit.spending(lambda: inputs.estimated_tokens) as spent:
            answer = await while_connected(request.receive, work)
            spent.tokens = answer.tokens
        note_whole(answer.tokens, answer.timings)
    finally:
        if iscoroutine(work):
            work.close()  # else Python complains of work that was never begun
    return answer
