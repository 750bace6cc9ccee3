# SPDX-License-Identifier: Apache-2.0
"""A model as the engine knows it: its name, its state, its place on a device."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from appliance.engine.device import Lane, available_cores
from appliance.settings import ModelSettings

__all__ = ["ServedModel"]


class ServedModel:
    """One model under its name.

    Attributes:
        settings: As configured.
        state: Where it stands.
        reason: Why it failed, if it did.
        created: When it was configured, in Unix seconds.
        requests: Requests being worked on.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.state: Literal["loading", "ready", "failed"] = "loading"
        self.reason = ""
        self.created = int(time.time())
        self.requests = 0
        self.lane: Lane | None = None
        self.loaded = asyncio.Event()
        """Set once ``state`` is no longer ``loading``."""
        workers = settings.tokenization_workers or max(1, available_cores() - 1)
        self.tokenizers = ThreadPoolExecutor(workers, f"tokenize-{settings.name}")

    @property
    def name(self) -> str:
        """The name that answers carry."""
        return self.settings.name
