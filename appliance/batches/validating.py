# SPDX-License-Identifier: Apache-2.0
"""Whether the requests of a batch can be worked off at all."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import msgspec

from appliance.access.grants import Grant
from appliance.batches.records import Batch
from appliance.batches.requests import survey
from appliance.batches.tools import Tools
from appliance.engine.served import ServedModel
from appliance.engine.service import Engine
from appliance.errors import ModelNotFound

__all__ = ["validate"]

logger = logging.getLogger(__name__)


async def validate(batch: Batch, grant: Grant, tools: Tools) -> dict[str, Any]:
    """Look the input of a batch through.

    Args:
        batch: The batch.
        grant: What it may use.
        tools: Knows its file and the models.

    Returns:
        What is to be written of it: that it is in progress, or why it has failed.

    Raises:
        OSError: The file cannot be read.
    """
    engine = tools.engine
    path = tools.contents.path(batch.input_file_id)
    found = await asyncio.to_thread(survey, path, engine.largest_payload)
    models = _usable(found.models, grant, engine)
    found.check_models(models.keys())
    logger.info(
        "%s: %d requests, %d inputs, %d faults",
        *(batch.id, found.requests, found.inputs, len(found.errors)),
    )
    now = int(time.time())
    if found.errors:
        errors = msgspec.to_builtins(found.errors)
        return {"status": "failed", "failed_at": now, "holder": None, "errors": errors}
    names = set(models.values())
    return {
        "status": "in_progress",
        "in_progress_at": now,
        "total": found.requests,
        "model": names.pop() if len(names) == 1 else None,
    }


def _usable(wanted: Iterable[str], grant: Grant, engine: Engine) -> dict[str, str]:
    """Of the models that are asked for, those that may be used, and their own names."""
    models = {}
    for name in wanted:
        with suppress(ModelNotFound):
            model = _model(engine, name)
            if grant.allows_model(model.names):
                models[name] = model.name
    return models


def _model(engine: Engine, name: str) -> ServedModel:
    try:
        return engine.model(name)
    except ModelNotFound:
        if not engine.settings.any_model_name or not engine.models:
            raise
        return engine.models[0]
