# SPDX-License-Identifier: Apache-2.0
"""The engine's one door: ``Engine.embed``."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Literal, TypeVar

from appliance.engine.admission import check_queue, check_requests, check_wait, patience
from appliance.engine.asking import compute
from appliance.engine.backend import Prepared, Room
from appliance.engine.calibration import Calibration, read_calibration
from appliance.engine.catalogue import Catalogue
from appliance.engine.inputs import (
    Inputs,
    check_count,
    check_dimensions,
    check_expiry,
    check_total,
)
from appliance.engine.lane import Lane
from appliance.engine.lifecycle import Lifecycle, Loader
from appliance.engine.served import ServedModel
from appliance.engine.types import (
    Embedding,
    EmbedOptions,
    FloatMatrix,
    Timings,
)
from appliance.engine.vectors import finish_vectors
from appliance.engine.vocabulary import TokenVocabulary
from appliance.engine.watching import UNWATCHED, Watcher
from appliance.persistence import KeptModels
from appliance.settings import ModelSettings, Settings

__all__ = ["Engine", "Loader"]

logger = logging.getLogger(__name__)

CARE_SECONDS = 1.0
"""How often the devices are looked after."""

Result = TypeVar("Result")


def _load_with_torch(
    settings: Settings, model: ModelSettings, rooms: Mapping[str, Room]
) -> Prepared:
    # Not at the top: torch and transformers take seconds to read, and the port answers meanwhile.
    from appliance.engine.loading import prepare_model

    _spare_imports()
    return prepare_model(settings, model, rooms)


@cache
def _spare_imports() -> None:
    """Have the garbage collector pass over what was imported: half a million objects that stay.

    It would go through them all while every thread waits, again and again under many requests.
    Before the first model is there, as what is passed over once is passed over for ever.
    """
    gc.collect()
    gc.freeze()


class Engine:
    """All models of one instance. Create it inside a running event loop.

    Args:
        settings: The instance's settings.
        load: Finds one model. Unset: the real thing.
        kept: What was added and removed for good. Unset: no such thing is kept.
        watcher: Told of what happens.

    Attributes:
        settings: The instance's settings.
        session_id: Another one for each start.
        started: When it was made, in Unix seconds.
        models: The models, the default one first.
        catalogue: Knows them by name, adds and removes them.
        lifecycle: Loads and unloads them.
        draining: Whether the server has been told to stop.
        last_action: When the last request came or ended, by ``time.monotonic``.
    """

    def __init__(
        self,
        settings: Settings,
        load: Loader | None = None,
        kept: KeptModels | None = None,
        watcher: Watcher = UNWATCHED,
    ) -> None:
        self._watcher = watcher
        self.draining = False
        self.settings = settings
        self.session_id = str(uuid.uuid4())
        self.started = time.time()
        self._begun = time.monotonic()
        self.last_action = time.monotonic()
        load = load or _load_with_torch
        self.lifecycle = Lifecycle(settings, load, self._begin_loading, watcher)
        self.catalogue = Catalogue(settings, self.lifecycle, kept)
        self.models = self.catalogue.models
        self._vocabulary = TokenVocabulary(settings.token_vocabulary_dir)
        self._background = ThreadPoolExecutor(1, "background")
        self._caretaker: asyncio.Task[None] | None = None
        self._stopped: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to load; returns at once."""
        for model in self.catalogue.first:
            self.lifecycle.begin_loading(model)
        self._caretaker = asyncio.create_task(self._look_after_devices())

    async def stop(self) -> None:
        """Let the batches in flight finish and end every thread."""
        if self._stopped is None:
            self._stopped = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopped)

    async def _look_after_devices(self) -> None:
        while True:
            await asyncio.sleep(CARE_SECONDS)
            try:
                self.lifecycle.fleet.look_after()
            except Exception:  # the next time may go better
                logger.exception("the devices could not be looked after")

    async def _stop(self) -> None:
        if self._caretaker is not None:
            self._caretaker.cancel()
        await self.catalogue.stop()
        await self.lifecycle.stop()
        self._background.shutdown(wait=False, cancel_futures=True)

    async def all_failed(self) -> bool:
        """Wait until each model that loads at the start has, and say whether all have failed."""
        for model in self.catalogue.first:
            await model.until_loaded()
        return bool(self.catalogue.first) and all(model.state == "failed" for model in self.models)

    @property
    def status(self) -> Literal["ok", "loading", "failed"]:
        """``ok`` once every model that loads at the start has run a forward pass or failed."""
        if self.fault:
            return "failed"
        if self.models and all(model.state == "failed" for model in self.models):
            return "failed"
        first = (model for model in self.catalogue.first if model in self.models)
        return "ok" if all(model.was_tried for model in first) else "loading"

    @property
    def fault(self) -> str:
        """What keeps a device from its work; empty if nothing does."""
        return self.lifecycle.fleet.fault

    @property
    def uptime_seconds(self) -> float:
        """Time since it was made, whatever the clock was set to meanwhile."""
        return time.monotonic() - self._begun

    @property
    def idle_seconds(self) -> float:
        """Time since the last request for an embedding ended; 0 while there is one."""
        return 0.0 if self.is_busy else time.monotonic() - self.last_action

    @property
    def is_busy(self) -> bool:
        """Whether there is a request for an embedding."""
        return any(model.requests for model in (*self.models, *self.catalogue.leaving))

    def model(self, name: str) -> ServedModel:
        """The model that answers to a name or an alias.

        Raises:
            ModelNotFound: There is none.
        """
        return self.catalogue.find(name)

    @property
    def largest_payload(self) -> int:
        """Bytes of the largest body that any model takes."""
        default: int = ModelSettings.model_fields["payload_limit"].default
        return max((model.settings.payload_limit for model in self.models), default=default)

    async def embed(self, model: ServedModel, inputs: Inputs, options: EmbedOptions) -> Embedding:
        """Embed the inputs of one request.

        Raises:
            InvalidRequest: The request can never succeed as it is.
            Overloaded: The model's waiting room is full.
            ModelUnavailable: The model is loading or has failed.
        """
        self._watcher.asked(model.name)
        check_count(inputs, model.settings)
        check_expiry(options)
        check_requests(model)
        model.requests += 1
        self.last_action = time.monotonic()
        try:
            async with self.lifecycle.use(model, options.keep_alive) as lane:
                result = await self._embed(model, lane, inputs, options)
        finally:
            model.requests -= 1
            if not model.requests:
                model.changed.set()
            model.last_used = time.time()
            self.last_action = time.monotonic()
        model.answered += 1
        model.tokens += result.tokens
        self._watcher.embedded(options, result)
        return result

    async def _embed(
        self, model: ServedModel, lane: Lane, inputs: Inputs, options: EmbedOptions
    ) -> Embedding:
        check_dimensions(options.dimensions, lane.backend.dimension)
        normalize = _first_set(options.normalize, model.settings.normalize, True)
        calibration = model.calibration if options.output_dtype in ("int8", "uint8") else None
        if calibration is not None:
            calibration.check(options.dimensions, normalize)
        check_wait(model, lane, inputs, options.priority)
        started = time.perf_counter()
        texts, unpooled = await model.tokenize(lane.backend, inputs, options, self._vocabulary)
        tokens = check_total(texts, model.settings)
        tokenized = time.perf_counter()
        ranges = None
        if calibration is not None:
            ranges = await calibration.ranges(options.dimensions, normalize)
        finish = partial(
            finish_vectors,
            dimensions=options.dimensions,
            normalize=normalize,
            output_dtype=options.output_dtype,
            ranges=ranges,
        )
        check_queue(model, lane, tokens)
        trace = self._watcher.trace()
        job, vectors = await compute(
            lane, texts, unpooled, finish, options.priority, patience(model), trace
        )
        assert job.started is not None
        assert job.finished is not None
        timings = Timings(
            tokenize=tokenized - started,
            queue=job.started - job.submitted,
            forward=job.finished - job.started,
            began_to_tokenize=started,
            began_to_queue=job.submitted,
        )
        return Embedding(vectors, tokens, timings)

    async def in_background(self, function: Callable[[], Result]) -> Result:
        """Run something that would hold up the event loop on a thread of its own."""
        return await asyncio.get_running_loop().run_in_executor(self._background, function)

    async def _begin_loading(self, model: ServedModel) -> Callable[[Lane], None]:
        source = await self.in_background(partial(read_calibration, model.settings.calibration))

        def loaded(lane: Lane) -> None:
            model.calibration = Calibration(
                model.name,
                source,
                dimension=lane.backend.dimension,
                normalized=_first_set(model.settings.normalize, True),
                embed=partial(self._embed_plainly, model),
            )

        return loaded

    async def _embed_plainly(self, model: ServedModel, texts: Sequence[str]) -> FloatMatrix:
        """The chain's own output for texts that no request sent."""
        options = EmbedOptions(truncate=True)
        async with self.lifecycle.use(model) as lane:
            ids, unpooled = await model.tokenize(
                lane.backend, Inputs(texts), options, self._vocabulary
            )
            _, vectors = await compute(lane, ids, unpooled, lambda vectors: vectors, "low")
        return vectors


def _first_set(*choices: bool | None) -> bool:
    return next(choice for choice in choices if choice is not None)
