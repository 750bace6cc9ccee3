# SPDX-License-Identifier: Apache-2.0
"""What Ray's own metrics tell of a replica, beside all that the server exports by OTLP."""

from __future__ import annotations

import asyncio
import logging

from ray.serve import metrics

from appliance.engine.service import Engine
from embeddings_serve.slots import Slots

__all__ = ["keep_gauges"]

logger = logging.getLogger(__name__)

EVERY_SECONDS = 1.0


async def keep_gauges(engine: Engine, slots: Slots) -> None:
    """Tell Ray of the engine, again and again until it is cancelled."""
    queue = metrics.Gauge("appliance_queue_tokens", "Tokens that wait for a batch.")
    held = metrics.Gauge("appliance_models_held", "Models that the replica holds.")
    tokens = metrics.Counter("appliance_tokens_embedded", "Tokens that models have read.")
    told = 0
    while True:
        try:
            queue.set(engine.catalogue.waiting_tokens)
            held.set(len(slots.names))
            if more := sum(model.tokens for model in engine.models) - told:
                tokens.inc(more)
                told += more
        except Exception:  # the next time may go better
            logger.exception("Ray could not be told of the engine")
        await asyncio.sleep(EVERY_SECONDS)
