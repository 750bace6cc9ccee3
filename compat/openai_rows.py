# SPDX-License-Identifier: Apache-2.0
"""How a request of a batch is answered: as the route would, but behind the live ones."""

from __future__ import annotations

import logging

import msgspec

from appliance.access.door import Door
from appliance.access.grants import Grant
from appliance.auth import Visit
from appliance.batches.part import Answer
from appliance.batches.rows import Answering
from appliance.bodies import check_body_size, parse_body
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.errors import (
    ApplianceError,
    InternalError,
    ModelUnavailable,
    Overloaded,
    StoreUnavailable,
    TokensExceeded,
)
from compat.openai_asking import (
    ask,
    choose_model,
    decoder,
    inputs_of,
    render,
    wants_base64,
)
from compat.openai_errors import error_response
from compat.rendering import off_the_loop

__all__ = ["answering"]

logger = logging.getLogger(__name__)

HELP_BY_WAITING = (Overloaded, ModelUnavailable, TokensExceeded, StoreUnavailable)
YIELD_SECONDS = 0.05
"""Time after which to look again whether there is room beside the live requests."""

_encode = msgspec.json.Encoder().encode


def answering(engine: Engine, door: Door) -> Answering:
    """Make what answers one request of a batch."""

    async def answer(body: bytes, grant: Grant) -> Answer:
        try:
            return await _answer(engine, Visit(door, grant, door.quotas.of(grant)), body)
        except HELP_BY_WAITING:
            raise
        except ApplianceError as error:
            known = error
        except Exception:  # it costs this request, and no other
            logger.exception("a request of a batch failed")
            known = InternalError("The server had an error while processing your request.")
        return Answer(known.status, _encode(error_response(known)))

    return answer


async def _answer(engine: Engine, visit: Visit, body: bytes) -> Answer:
    wanted = parse_body(body, decoder)
    model = choose_model(engine, None, None, wanted.model)
    visit.check_model(model.names)
    check_body_size(len(body), model.settings)
    as_base64 = wants_base64(wanted.encoding_format)
    inputs = inputs_of(wanted.input)
    _leave_room(model)
    async with visit.spending(lambda: inputs.estimated_tokens) as spent:
        result = await ask(engine, model, inputs, wanted, "low")
        spent.tokens = result.tokens
    content = await off_the_loop(engine, result, lambda: render(result, model.name, as_base64))
    return Answer(200, content, result.tokens)


def _leave_room(model: ServedModel) -> None:
    """Let live requests have at least half of the places that the model has for requests.

    Raises:
        Overloaded: The other half is taken.
    """
    if model.requests and 2 * (model.requests + 1) > model.settings.max_concurrent_requests:
        raise Overloaded(
            f"{model.requests} requests for '{model.name}' are being worked on.",
            retry_after=YIELD_SECONDS,
        )
