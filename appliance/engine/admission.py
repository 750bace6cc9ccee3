# SPDX-License-Identifier: Apache-2.0
"""Who may wait for a model, and what is answered to who may not.

A request is refused as early as that can be known, since what is done for one that is refused
later is taken from those that are not: before its texts are tokenised if others wait so long
already that it would be given up, by the pace at which the model has worked so far.
"""

from __future__ import annotations

from appliance.engine.asking import Patience
from appliance.engine.inputs import Inputs
from appliance.engine.lane import Lane
from appliance.engine.served import ServedModel
from appliance.engine.types import Priority
from appliance.errors import Overloaded

__all__ = ["check_queue", "check_requests", "check_wait", "patience"]


def check_requests(model: ServedModel) -> None:
    """Refuse one more request than may be worked on at once.

    Raises:
        Overloaded: So many are.
    """
    if model.requests >= model.settings.max_concurrent_requests:
        raise _overloaded(
            model, f"{model.requests} requests are being worked on", "too_many_requests"
        )


def check_wait(model: ServedModel, lane: Lane, inputs: Inputs, priority: Priority) -> None:
    """Refuse a request that would have to be given up.

    Raises:
        Overloaded: So much goes before it that it would wait longer than it may.
    """
    limit = model.settings.max_queue_seconds
    if lane.seconds_to_drain <= limit:
        return
    seconds = lane.seconds_before(inputs.estimated_tokens, priority)
    if seconds > limit:
        raise _overloaded(
            model, f"it would have to wait in the queue for {seconds:.1f} s", "would_wait_too_long"
        )


def check_queue(model: ServedModel, lane: Lane, tokens: int) -> None:
    """Refuse what the queue has no room for; an empty one has room for anything.

    Raises:
        Overloaded: It has none.
    """
    waiting = lane.queue.tokens
    if waiting and waiting + tokens > model.settings.max_queue_tokens:
        raise _overloaded(model, f"{waiting} tokens are waiting", "queue_full")


def patience(model: ServedModel) -> Patience:
    """How long a request may wait for a model, and what it is answered with then."""
    seconds = model.settings.max_queue_seconds
    reason = f"the request has waited in the queue for {seconds:g} s"
    return Patience(seconds, lambda: _overloaded(model, reason, "waited_too_long"))


def _overloaded(model: ServedModel, reason: str, bound: str) -> Overloaded:
    seconds = max(model.lane.seconds_to_drain if model.lane else 1.0, 0.1)
    return Overloaded(
        f"Rate limit reached for '{model.name}': {reason}. Please try again in {seconds:.1f}s.",
        bound=bound,
        retry_after=seconds,
    )
