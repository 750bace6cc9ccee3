# SPDX-License-Identifier: Apache-2.0
"""What batches are worked off with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.access.door import Door
from appliance.batches.contents import Contents
from appliance.batches.rows import Answering
from appliance.engine.service import Engine

if TYPE_CHECKING:
    from appliance.batches.store import BatchStore

__all__ = ["Tools"]


@dataclass(frozen=True)
class Tools:
    """All that it takes.

    Attributes:
        store: Rows.
        contents: Files.
        door: Knows the keys that batches were made with.
        engine: The models.
        answer: Answers one request.
    """

    store: BatchStore
    contents: Contents
    door: Door
    engine: Engine
    answer: Answering
