# SPDX-License-Identifier: Apache-2.0
"""Where a model comes from, by what the setting ``model`` says."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["CLEARML_PREFIX", "EMBEDDED_PREFIX", "check_source", "is_hub_name", "name_of"]

EMBEDDED_PREFIX = "embedded:"
CLEARML_PREFIX = "clearml://"

_CLEARML_ID = re.compile(r"[0-9a-f]{32}")


def check_source(model: str, revision: str | None) -> None:
    """Hold what can be told without asking anyone.

    Raises:
        ValueError: It is no ClearML id, or a revision goes with one.
    """
    if not model.startswith(CLEARML_PREFIX):
        return
    if not _CLEARML_ID.fullmatch(model.removeprefix(CLEARML_PREFIX)):
        raise ValueError(
            f"model is {model!r}; after {CLEARML_PREFIX} comes the model's id in ClearML, 32 of the"
            " characters 0-9 and a-f"
        )
    if revision is not None:
        raise ValueError("revision is for models of the hub; a ClearML id names one model alone")


def name_of(model: str) -> str:
    """The name that a model is served under unless another is set.

    Raises:
        ValueError: It names a folder, and there can be no such folder.
    """
    for prefix in (EMBEDDED_PREFIX, CLEARML_PREFIX):
        if model.startswith(prefix):
            return model.removeprefix(prefix)
    if is_hub_name(model):
        return model
    try:
        return Path(model).expanduser().resolve().name
    except (OSError, RuntimeError) as error:  # there is no such home, or can be no such folder
        raise ValueError(f"it names no folder: {error}") from None


def is_hub_name(model: str) -> bool:
    """Whether a model comes from the hub, rather than from a folder, a package or ClearML."""
    if model.startswith((".", "/", "~", EMBEDDED_PREFIX, CLEARML_PREFIX)):
        return False
    try:
        return not Path(model).is_dir()
    except (OSError, ValueError):  # there can be no such folder
        return True
