# SPDX-License-Identifier: Apache-2.0
"""The engine's one door: ``Engine.embed``."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Literal, TypeVar

from appliance.engine.calibration import Calibration, read_calibration
from appliance.engine.device import Device, Lane
from appliance.engine.inputs import Inputs, check_count, check_dimensions, check_total
from appliance.engine.served import ServedModel
from appliance.engine.types import (
    Backend,
    Embedding,
    EmbedOptions,
    FloatMatrix,
    Job,
    Timings,
    TokenArray,
    Vectors,
)
from appliance.engine.vectors import finish_vectors
from appliance.engine.vocabulary import TokenVocabulary
from appliance.errors import (
    ApplianceError,
    ModelNotFound,
    ModelUnavailable,
    Overloaded,
)
from appliance.settings import ModelSettings, Settings

__all__ = ["Engine", "Loader"]

logger = logging.getLogger(__name__)

Loader = Callable[[Settings, ModelSettings], Sequence[Backend]]
"""Loads one model; several copies where it is to have several, each on a device of its own."""

Result = TypeVar("Result")
Finished = TypeVar("Finished", bound=Vectors)


def _load_with_torch(settings: Settings, model: ModelSettings) -> Sequence[Backend]:
    # Not at the top: torch and transformers take seconds to read, and the port answers meanwhile.
    from appliance.engine.loading import load_model

    return load_model(settings, model)


class Engine:
    """All models of one instance. Create it inside a running event loop.

    Args:
        settings: The instance's settings.
        load: Loads one model. Unset: the real thing.

    Attributes:
        settings: The instance's settings.
        models: The models, the default one first.
        draining: Whether the server has been told to stop.
    """

    def __init__(self, settings: Settings, load: Loader | None = None) -> None:
        self.models = [ServedModel(model) for model in settings.models]
        self.draining = False
        self.settings = settings
        self._load = load or _load_with_torch
        self._by_name = {
            name: model
            for model in self.models
            for name in (model.settings.name, *model.settings.aliases)
        }
        self._devices: dict[str, Device] = {}
        self._scheduling = threading.Lock()
        self._vocabulary = TokenVocabulary(settings.token_vocabulary_dir)
        self._background = ThreadPoolExecutor(1, "background")
        self._loader = ThreadPoolExecutor(1, "loader")
        self._loading: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to load; returns at once."""
        self._loading = [asyncio.create_task(self._bring_up(model)) for model in self.models]

    async def stop(self) -> None:
        """Let the batches in flight finish and end every thread."""
        for task in self._loading:
            task.cancel()
        for model in self.models:
            if model.calibration is not None:
                model.calibration.stop()
        for device in self._devices.values():
            await asyncio.to_thread(device.stop)
        for pool in (self._background, self._loader, *(m.tokenizers for m in self.models)):
            pool.shutdown(wait=False, cancel_futures=True)

    async def all_failed(self) -> bool:
        """Wait until each model is loaded or failed, and say whether none can be served."""
        for model in self.models:
            await model.loaded.wait()
        return all(model.state == "failed" for model in self.models)

    @property
    def status(self) -> Literal["ok", "loading", "failed"]:
        """``ok`` once every model that can be served has run a forward pass."""
        dead = not all(device.alive for device in self._devices.values())
        if dead or all(model.state == "failed" for model in self.models):
            return "failed"
        return "loading" if any(model.state == "loading" for model in self.models) else "ok"

    def model(self, name: str) -> ServedModel:
        """The model that answers to a name or an alias.

        Raises:
            ModelNotFound: There is none.
        """
        if name in self._by_name:
            return self._by_name[name]
        known = ", ".join(f"'{model.name}'" for model in self.models)
        raise ModelNotFound(
            f"The model '{name}' does not exist. Served here: {known}.", param="model"
        )

    async def embed(self, model: ServedModel, inputs: Inputs, options: EmbedOptions) -> Embedding:
        """Embed the inputs of one request.

        Raises:
            InvalidRequest: The request can never succeed as it is.
            Overloaded: The model's waiting room is full.
            ModelUnavailable: The model is loading or has failed.
        """
        check_count(inputs, model.settings)
        if model.requests >= model.settings.max_concurrent_requests:
            raise self._overloaded(model, f"{model.requests} requests are being worked on")
        model.requests += 1
        try:
            lane = await self._lane(model)
            check_dimensions(options.dimensions, lane.backend.dimension)
            normalize = _first_set(options.normalize, model.settings.normalize, True)
            calibration = model.calibration if options.output_dtype in ("int8", "uint8") else None
            if calibration is not None:
                calibration.check(options.dimensions, normalize)
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
            job, vectors = await self._compute(model, lane, texts, unpooled, finish)
        finally:
            model.requests -= 1
        assert job.started is not None
        assert job.finished is not None
        timings = Timings(
            tokenize=tokenized - started,
            queue=job.started - job.submitted,
            forward=job.finished - job.started,
        )
        return Embedding(vectors, tokens, timings)

    async def in_background(self, function: Callable[[], Result]) -> Result:
        """Run something that would hold up the event loop on a thread of its own."""
        return await asyncio.get_running_loop().run_in_executor(self._background, function)

    async def _bring_up(self, model: ServedModel) -> None:
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        try:
            source = await self.in_background(partial(read_calibration, model.settings.calibration))
            backends = await loop.run_in_executor(
                self._loader, self._load, self.settings, model.settings
            )
            calibration = Calibration(
                model.name,
                source,
                dimension=backends[0].dimension,
                normalized=_first_set(model.settings.normalize, True),
                embed=partial(self._embed_plainly, model),
            )
            copies = {self._device(backend.device_name): backend for backend in backends}
            budget = model.settings.max_batch_tokens
            for device, backend in copies.items():
                warm_up = partial(backend.warm_up, device.batch_tokens(backend, budget))
                await asyncio.wrap_future(device.run(warm_up))
        except Exception as error:  # any fault of a model's files; the other models go on
            known = isinstance(error, ApplianceError)
            model.reason = str(error) if known else f"{type(error).__name__}: {error}"
            model.state = "failed"
            logger.error("model %s: %s", model.name, model.reason, exc_info=not known)
        else:
            model.lane = Lane(model.name, copies, budget, model.settings.max_batch_requests)
            for device in copies:
                device.add(model.lane)
            model.calibration = calibration
            model.state = "ready"
            logger.info("model %s: ready after %.1f s", model.name, time.perf_counter() - started)
        model.loaded.set()

    def _device(self, name: str) -> Device:
        if name not in self._devices:
            self._devices[name] = Device(name, self.settings.cpu_workers, self._scheduling)
            self._devices[name].start()
        return self._devices[name]

    async def _lane(self, model: ServedModel) -> Lane:
        if model.state == "loading":
            try:
                async with asyncio.timeout(self.settings.model_wait_seconds):
                    await model.loaded.wait()
            except TimeoutError:
                raise ModelUnavailable(
                    f"The model '{model.name}' is still loading.", retry_after=5
                ) from None
        if model.lane is None:
            raise ModelUnavailable(
                f"The model '{model.name}' cannot be served: {model.reason}", retry_after=60
            )
        return model.lane

    async def _embed_plainly(self, model: ServedModel, texts: Sequence[str]) -> FloatMatrix:
        """The chain's own output for texts that no request sent."""
        lane = await self._lane(model)
        options = EmbedOptions(truncate=True)
        ids, unpooled = await model.tokenize(lane.backend, Inputs(texts), options, self._vocabulary)
        _, vectors = await self._compute(model, lane, ids, unpooled, lambda vectors: vectors)
        return vectors

    async def _compute(
        self,
        model: ServedModel,
        lane: Lane,
        texts: list[TokenArray],
        unpooled: int,
        finish: Callable[[FloatMatrix], Finished],
    ) -> tuple[Job, Finished]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Finished] = loop.create_future()

        def resolve(vectors: Finished | None, error: BaseException | None) -> None:
            if future.done():
                return
            if vectors is not None:
                future.set_result(vectors)
            elif error is not None:
                future.set_exception(error)

        def done(job: Job) -> None:
            vectors, error = None, job.error
            if job.vectors is not None and error is None:
                try:
                    vectors = finish(job.vectors)
                except Exception as fault:  # whatever it is, the request is answered
                    error = fault
            with suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(resolve, vectors, error)

        job = Job(texts, done, unpooled)
        waiting = lane.queue.tokens
        if waiting and waiting + job.tokens > model.settings.max_queue_tokens:
            raise self._overloaded(model, f"{waiting} tokens are waiting")
        lane.submit(job)
        try:
            return job, await future
        except asyncio.CancelledError:
            lane.cancel(job)
            raise

    def _overloaded(self, model: ServedModel, reason: str) -> Overloaded:
        seconds = model.lane.seconds_to_drain if model.lane else 1.0
        return Overloaded(
            f"Rate limit reached for '{model.name}': {reason}. Please try again in"
            f" {max(seconds, 0.1):.1f}s.",
            retry_after=max(seconds, 0.1),
        )


def _first_set(*choices: bool | None) -> bool:
    return next(choice for choice in choices if choice is not None)
