# SPDX-License-Identifier: Apache-2.0
"""A model as the engine knows it: its name, its state, its place on a device."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal

from appliance.engine.calibration import Calibration
from appliance.engine.cores import available_cores
from appliance.engine.device import Lane
from appliance.engine.inputs import Inputs, tokenize
from appliance.engine.prompts import Prompt, choose_prompt
from appliance.engine.types import Backend, EmbedOptions, TokenArray
from appliance.engine.vocabulary import TokenVocabulary
from appliance.settings import ModelSettings

__all__ = ["ServedModel"]

TOKENIZE_RUN = 64
"""Texts that one tokenizer thread takes at once."""


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
        self.calibration: Calibration | None = None
        """There as soon as ``lane`` is."""
        self.loaded = asyncio.Event()
        """Set once ``state`` is no longer ``loading``."""
        workers = settings.tokenization_workers or max(1, available_cores() - 1)
        self.tokenizers = ThreadPoolExecutor(workers, f"tokenize-{settings.name}")

    @property
    def name(self) -> str:
        """The name that answers carry."""
        return self.settings.name

    async def tokenize(
        self,
        backend: Backend,
        inputs: Inputs,
        options: EmbedOptions,
        vocabulary: TokenVocabulary,
    ) -> tuple[list[TokenArray], int]:
        """Turn inputs into ids on the model's own threads.

        Returns:
            Ids of each input, and how many of the first are a prompt that is not pooled.

        Raises:
            InvalidRequest: There is no such prompt; or an input cannot be read, or is too long
                and may not be cut.
        """
        loop = asyncio.get_running_loop()
        prompt = choose_prompt(backend.prompts, backend.default_prompt_name, self.settings, options)
        length = 0
        if prompt:
            measure = backend.tokenizer.prompt_length
            length = await loop.run_in_executor(self.tokenizers, measure, prompt)
        work = partial(
            tokenize,
            backend=backend,
            model=self.settings,
            options=options,
            prompt=Prompt(prompt, length),
            vocabulary=vocabulary,
        )
        runs = [
            loop.run_in_executor(self.tokenizers, work, run) for run in inputs.split(TOKENIZE_RUN)
        ]
        texts: list[TokenArray] = []
        for result in await asyncio.gather(*runs, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            texts += result
        return texts, 0 if backend.pools_prompt else length
