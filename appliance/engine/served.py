# SPDX-License-Identifier: Apache-2.0
"""A model as the engine knows it: its name, its state, its place on a device."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, TypeVar, cast

from appliance.engine.backend import Backend, TextTokenizer
from appliance.engine.calibration import Calibration
from appliance.engine.copies import Copy, Tier
from appliance.engine.cores import available_cores
from appliance.engine.inputs import Inputs, check_ids, check_prompt, check_total, tokenize
from appliance.engine.lane import Lane
from appliance.engine.prompts import Prompt, choose_prompt
from appliance.engine.scoring import tokenize_pairs
from appliance.engine.types import EmbedOptions, ModelCard, PairTokens, Token, TokenArray
from appliance.engine.vocabulary import TokenVocabulary
from appliance.settings import ModelSettings

__all__ = ["ModelState", "ServedModel"]

TOKENIZE_RUN = 64
"""Texts that one tokenizer thread takes at once."""


Run = TypeVar("Run")
Result = TypeVar("Result")

ModelState = Literal["unloaded", "loading", "active", "idle", "offloaded", "swapped", "failed"]

_STATES: tuple[tuple[Tier, ModelState], ...] = (("host", "offloaded"), ("disk", "swapped"))


class ServedModel:
    """One model under its name. All but ``state`` belongs to the event loop.

    Attributes:
        settings: As configured.
        created: When it was configured, in Unix seconds.
        reason: Why it failed, if it did.
        failed_at: When, by ``time.monotonic``.
        requests: Requests being worked on.
        users: Requests and others that hold ``lane``.
        waiting: Those that wait for it to be loaded.
        keep_alive: Seconds that it stays loaded without users; -1: for ever.
        expires: When it will be unloaded for having none, by ``time.monotonic``.
        last_used: When the last request for it ended, in Unix seconds.
        answered: Requests answered so far.
        tokens: Tokens embedded so far.
        lane: Where its texts wait, while it is loaded.
        outgoing: The lane that it had, while that is unloaded; it takes no new requests.
        calibration: There as soon as ``lane`` is.
        card: What it is; there as soon as ``lane`` was once, and remembered.
        was_tried: Whether it was loaded or has failed once.
        changed: Set when one of its copies has moved or failed to, or the last user has left, or
            the last request.
        change: Held by whoever loads or unloads it.
        loading: Loads it, or has; ``None`` before the first time.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.created = int(time.time())
        self.reason = ""
        self.failed_at = 0.0
        self.requests = 0
        self.users = 0
        self.waiting = 0
        self.keep_alive = settings.keep_alive
        self.expires: float | None = None
        self.last_used: float | None = None
        self.answered = 0
        self.tokens = 0
        self.lane: Lane | None = None
        self.outgoing: Lane | None = None
        self.calibration: Calibration | None = None
        self.card: ModelCard | None = None
        self.was_tried = False
        self.changed = asyncio.Event()
        self.change = asyncio.Lock()
        self.loading: asyncio.Task[None] | None = None
        workers = settings.tokenization_workers or max(1, available_cores() - 1)
        self.tokenizers = ThreadPoolExecutor(workers, f"tokenize-{settings.name}")

    @property
    def names(self) -> tuple[str, ...]:
        """All that it answers to."""
        return self.settings.names

    @property
    def copies(self) -> list[Copy]:
        """Its copies, while it is loaded."""
        return [] if self.lane is None else self.lane.copies

    @property
    def lane_with_weights(self) -> Lane | None:
        """The lane that takes memory."""
        return self.lane or self.outgoing

    @property
    def is_loading(self) -> bool:
        """Whether it is on its way from its own files."""
        return self.loading is not None and not self.loading.done()

    @property
    def state(self) -> ModelState:
        """Where it stands."""
        if self.is_loading:
            return "loading"
        if self.reason:
            return "failed"
        copies = [] if self.lane_with_weights is None else self.lane_with_weights.copies
        if any(copy.tier == "device" for copy in copies):
            busy = self.users or any(copy.is_busy for copy in copies)
            return "active" if busy else "idle"
        if any(copy.moving_to == "device" for copy in copies):
            return "loading"
        tiers = {copy.tier for copy in copies}
        return next((state for tier, state in _STATES if tier in tiers), "unloaded")

    async def until_loaded(self, seconds: float | None = None) -> bool:
        """Wait for a load that is under way to end, well or not, and say whether it has.

        Args:
            seconds: Longest wait. Unset: for ever.
        """
        if self.loading is None:
            return True
        self.waiting += 1
        try:
            ended, _ = await asyncio.wait({self.loading}, timeout=seconds)
        finally:
            self.waiting -= 1
        return bool(ended)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds that depends on copies, users and requests."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()

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
        prompt = choose_prompt(backend.prompts, backend.default_prompt_name, self.settings, options)
        check_prompt(prompt, inputs, self.settings)
        length = 0
        if prompt:
            loop = asyncio.get_running_loop()
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
        texts = await self._in_runs(work, inputs.split(TOKENIZE_RUN))
        return texts, 0 if backend.pools_prompt else length

    async def tokenize_pairs(
        self, backend: Backend, inputs: Inputs, options: EmbedOptions
    ) -> list[PairTokens]:
        """Turn pairs into ids on the model's own threads.

        Raises:
            InvalidRequest: A pair is too long and may not be cut, or has nothing that can be read.
        """
        work = partial(tokenize_pairs, backend=backend, model=self.settings, options=options)
        return await self._in_runs(work, inputs.split(TOKENIZE_RUN))

    async def split(
        self, tokenizer: TextTokenizer, inputs: Inputs, *, add_special_tokens: bool
    ) -> list[list[Token]]:
        """Split texts into tokens on the model's own threads.

        Raises:
            RequestTooManyTokens: There are more than one request may have.
        """
        texts = cast("list[str]", inputs.items)
        runs = list(_runs(texts))
        # Counted where they may be too many: each token takes far more memory than its characters.
        if sum(map(len, texts)) > self.settings.max_request_tokens:
            found = await self._in_runs(tokenizer.encode, runs)
            check_total(found, self.settings, inputs.field)
        work = partial(tokenizer.split, add_special_tokens=add_special_tokens)
        return await self._in_runs(work, runs)

    async def decode(
        self, backend: Backend, ids: Sequence[Sequence[int]], *, skip_special_tokens: bool
    ) -> list[str]:
        """Turn lists of ids into texts on the model's own threads.

        Raises:
            InvalidRequest: There is an id that the model does not have.
        """
        for position, each in enumerate(ids):
            check_ids(each, f"ids[{position}]", backend)
        work = partial(backend.tokenizer.decode, skip_special_tokens=skip_special_tokens)
        return await self._in_runs(work, _runs(ids))

    async def _in_runs(
        self, work: Callable[[Run], list[Result]], runs: Iterable[Run]
    ) -> list[Result]:
        loop = asyncio.get_running_loop()
        futures = [loop.run_in_executor(self.tokenizers, work, run) for run in runs]
        results: list[Result] = []
        for result in await asyncio.gather(*futures, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            results += result
        return results


def _runs(items: Sequence[Result]) -> Iterator[list[Result]]:
    for start in range(0, len(items), TOKENIZE_RUN):
        yield list(items[start : start + TOKENIZE_RUN])
