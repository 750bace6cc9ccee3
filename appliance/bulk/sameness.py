# SPDX-License-Identifier: Apache-2.0
"""Whether a run may go on with what an earlier one has begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from appliance.bulk.arguments import EmbedArguments
from appliance.bulk.faults import CommandFault
from appliance.bulk.folder import Manifest
from appliance.engine.types import FloatMatrix
from appliance.settings import ModelSettings

__all__ = ["check_probe", "check_same_command", "describe_command"]

PROBE_TOLERANCE = 1e-3
"""Largest distance between the probe's vectors, as a share of their length: float32 on another
device is within it, another number format is not."""

_MODEL_SETTINGS = {
    "model",
    "revision",
    "dtype",
    "quantization",
    "pooling",
    "normalize",
    "prompts",
    "default_prompt_name",
    "max_input_tokens",
}
_OPTIONS = ("column", "dimensions", "normalize", "prompt", "prompt_name", "input_type")


def describe_command(
    arguments: EmbedArguments, model: ModelSettings, schema: pa.Schema
) -> dict[str, Any]:
    """All that decides what rows and vectors are, as JSON has it.

    The input's content is not in it: rows that are done are held against the input one by one. Nor
    is what only the output's writing needs.
    """
    return {
        "format": arguments.input_format,
        "columns": [f"{field.name}: {field.type}" for field in schema],
        **{name: getattr(arguments, name) for name in _OPTIONS},
        **{
            f"models.{name}": value
            for name, value in model.model_dump(mode="json", include=_MODEL_SETTINGS).items()
        },
    }


def check_same_command(
    done: Manifest, command: dict[str, Any], arguments: EmbedArguments, folder: Path | str
) -> None:
    """Make sure that what is done is what the command would have done.

    Whether texts are cut and what becomes of rows without one may change as long as there was
    neither: a run that a row has stopped can go on with another rule for it.

    Raises:
        CommandFault: It is not.
    """
    changes = [
        f"{name}: {done.command.get(name)!r} then, {value!r} now"
        for name, value in command.items()
        if done.command.get(name) != value
    ]
    if done.truncate != arguments.truncate and (done.truncated or done.empty):
        changes.append("--truncate, and there were texts too long")
    if done.on_error != arguments.on_error and done.empty:
        changes.append("--on-error, and there were rows without a text")
    if changes:
        raise CommandFault(
            f"{folder} holds {done.rows:,} rows of another command ({'; '.join(changes)}); give"
            " that command again, or start anew with --restart"
        )


def check_probe(done: Manifest, probe: FloatMatrix, folder: Path | str) -> None:
    """Make sure that the model is the one that it was.

    Args:
        done: Holds the vector of a text from then.
        probe: Its vector now, float32, shape ``[dimensions]``.
        folder: For the message.

    Raises:
        CommandFault: It is not.
    """
    then = np.array(done.probe, dtype=np.float32)
    if then.shape == probe.shape:
        distance = float(np.linalg.norm(then - probe))
        if distance <= PROBE_TOLERANCE * float(np.linalg.norm(then)):
            return
    raise CommandFault(
        f"the model gives other vectors than when {folder} was begun: its weights, its number"
        " format or the device are not the same; start anew with --restart"
    )
