# SPDX-License-Identifier: Apache-2.0
"""The models of an instance by name, and what whoever manages it may do with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from appliance.engine.lifecycle import Lifecycle
from appliance.engine.served import ServedModel
from appliance.errors import (
    Conflict,
    InvalidRequest,
    ModelNotFound,
    ModelUnavailable,
    StorageFailed,
)
from appliance.persistence import KeptModels
from appliance.published import name_in_the_way, tell_clash
from appliance.settings import ModelSettings, Settings

__all__ = ["Catalogue"]


class Catalogue:
    """The models that are served. Belongs to the event loop.

    Args:
        settings: The instance's settings.
        lifecycle: Loads and unloads models.
        kept: What was added and removed for good. Unset: no such thing is kept.

    Attributes:
        models: The models, the default one first.
        first: Those that are loaded at the start.
        leaving: Those that were removed and still answer what they had accepted.
    """

    def __init__(self, settings: Settings, lifecycle: Lifecycle, kept: KeptModels | None) -> None:
        served = settings.models if kept is None else kept.served(settings)
        self.models = [ServedModel(model) for model in served]
        self.first = [model for model in self.models if model.settings.eager]
        self.leaving: set[ServedModel] = set()
        self._settings = settings
        self._configured = settings.models
        self._lifecycle = lifecycle
        self._kept = kept
        self._by_name = {name: model for model in self.models for name in model.names}
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, name: str) -> ServedModel:
        """The model that answers to a name or an alias.

        Raises:
            ModelNotFound: There is none.
        """
        if name in self._by_name:
            return self._by_name[name]
        known = ", ".join(f"'{model.name}'" for model in self.models) or "none"
        raise ModelNotFound(
            f"The model '{name}' does not exist. Served here: {known}.", param="model"
        )

    @property
    def waiting_tokens(self) -> int:
        """Tokens that wait for a device, of all models together."""
        models = (*self.models, *self.leaving)
        return sum(model.lane.queue.tokens for model in models if model.lane is not None)

    def is_kept(self, model: ServedModel) -> bool:
        """Whether a model was added for good."""
        return self._kept is not None and model.settings in self._kept.models

    async def add(self, settings: ModelSettings, *, persist: bool) -> ServedModel:
        """Serve one more model; it begins to load if it is ``eager``.

        Args:
            settings: The model.
            persist: Serve it after a restart too.

        Raises:
            Conflict: Another model answers to one of its names, or its path is the route's.
            InvalidRequest: A name is there twice, or nothing can be kept.
            StorageFailed: It could not be kept.
        """
        if len(set(settings.names)) < len(settings.names):
            raise InvalidRequest(
                "'aliases' is invalid: a name is there twice, or is the model's own.",
                param="aliases",
            )
        async with self._changing:
            if taken := [name for name in settings.names if name in self._by_name]:
                raise Conflict(
                    f"The model '{self._by_name[taken[0]].name}' answers to '{taken[0]}' already."
                    " Give the new one another name, or remove the old one.",
                    param="name" if taken[0] == settings.name else "aliases",
                )
            self._check_route(settings)
            if persist:
                await self._keep(lambda kept: kept.add(settings))
            model = ServedModel(settings)
            self.models.append(model)
            self._by_name.update(dict.fromkeys(model.names, model))
        if settings.eager:
            self._lifecycle.begin_loading(model)
        return model

    async def remove(self, name: str, *, persist: bool) -> ServedModel:
        """Serve a model no more. What it had accepted is answered, and its memory given back.

        Args:
            name: Its name or alias.
            persist: Do not serve it after a restart either.

        Returns:
            The model; it is among ``leaving`` if it was not done within ``model_wait_seconds``.

        Raises:
            ModelNotFound: There is none.
            InvalidRequest: Nothing can be kept.
            StorageFailed: Its absence could not be kept.
        """
        async with self._changing:
            model = self.find(name)
            if persist:
                configured = self._configured
                await self._keep(lambda kept: kept.remove(model.name, configured))
            task = self._withdraw(model)
        await asyncio.wait({task}, timeout=self._settings.model_wait_seconds)
        return model

    async def replace(
        self,
        wanted: Sequence[ModelSettings] | None,
        commits: Mapping[str, str],
        keep: Callable[[], None],
    ) -> bool:
        """Serve these models, in this order, and no others. Those that stay the same stay loaded.

        What the others had accepted is answered behind the call.

        Args:
            wanted: The models. ``None``: those that are served, whatever they are.
            commits: By the name of a model that is served, the commit of the hub that it is of; one
                that is wanted at this commit is the same.
            keep: Makes the change last; blocks. It comes first.

        Returns:
            Whether anything has changed.

        Raises:
            Conflict: A model's path is that of the route which is in force.
            StorageFailed: ``keep`` raised :class:`OSError`; nothing has changed.
        """
        for settings in wanted or ():
            self._check_route(settings)
        async with self._changing:
            try:
                await asyncio.to_thread(keep)
            except OSError as error:
                raise StorageFailed(
                    f"Nothing has changed, as the configuration cannot be written: {error}."
                ) from error
            if wanted is None:
                return False
            before = list(self.models)
            staying = {
                settings.name: model
                for settings in wanted
                for model in before
                if _is_same(model.settings, settings, commits.get(model.name))
            }
            for model in before:
                if model not in staying.values():
                    self._withdraw(model)
            self.models[:] = [
                staying.get(settings.name) or ServedModel(settings) for settings in wanted
            ]
            self._by_name = {name: model for model in self.models for name in model.names}
            self._configured = tuple(wanted)
        for model in self.models:
            if model not in before and model.settings.eager:
                self._lifecycle.begin_loading(model)
        return self.models != before

    async def load(self, model: ServedModel) -> None:
        """Have a model's weights on its device.

        Raises:
            ModelUnavailable: It cannot be loaded, or not within ``model_wait_seconds``.
        """
        await self._lifecycle.bring_to_device(model)

    async def offload(self, model: ServedModel) -> None:
        """Put a model's weights behind its device, from where they come back by themselves.

        Raises:
            Conflict: It is not loaded, its weights have no place there, or it stays in use.
            ModelUnavailable: It is loading still, or could not be loaded.
        """
        if model.state == "loading":
            await self._lifecycle.lane(model)
        if not model.copies:
            raise Conflict(
                f"The model '{model.name}' is not loaded, so there is nothing to offload."
            )
        if any(copy.behind == "source" for copy in model.copies):
            raise Conflict(
                f"The model '{model.name}' cannot be offloaded: {self._hindrance(model)}"
            )
        if not await self._lifecycle.park(model):
            raise Conflict(
                f"The model '{model.name}' stays in use, so it was not offloaded.", retry_after=1
            )

    async def unload(self, model: ServedModel) -> None:
        """Give back all that a model takes; it is loaded anew when it is asked for.

        Raises:
            ModelUnavailable: It is loading, and not done within ``model_wait_seconds``.
        """
        if not await model.until_loaded(self._settings.model_wait_seconds):
            raise ModelUnavailable(f"The model '{model.name}' is still loading.", retry_after=5)
        await self._lifecycle.unload(model)

    async def stop(self) -> None:
        """Give up whatever is under way."""
        for task in self._tasks:
            task.cancel()
        for model in (*self.models, *self.leaving):
            if model.calibration is not None:
                model.calibration.stop()
            model.tokenizers.shutdown(wait=False, cancel_futures=True)

    def _check_route(self, settings: ModelSettings) -> None:
        route = self._settings.route
        if clashing := name_in_the_way(route, settings.names):
            raise Conflict(
                f"Nothing has changed: {tell_clash(route, clashing)}.",
                param="name" if clashing == settings.name else "aliases",
            )

    def _withdraw(self, model: ServedModel) -> asyncio.Task[None]:
        self.models.remove(model)
        for answered in model.names:
            del self._by_name[answered]
        self.leaving.add(model)
        task = asyncio.create_task(self._leave(model))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _leave(self, model: ServedModel) -> None:
        await model.until(lambda: not model.requests)
        if model.calibration is not None:
            model.calibration.stop()  # or its next texts would have the model loaded anew
        await model.until_loaded()  # a request that was tired of waiting may have begun it
        await self._lifecycle.unload(model)
        model.tokenizers.shutdown(wait=False)
        self.leaving.discard(model)

    def _hindrance(self, model: ServedModel) -> str:
        """Why a model's weights can be put nowhere."""
        if not (self._settings.automatic_cpu_offload or self._settings.disk_swap):
            return (
                "nothing is behind its device. Start with automatic_cpu_offload (weights go to RAM)"
                " or disk_swap (to disk), or unload it instead."
            )
        if not self._settings.disk_swap and all(set(c.sizes) == {"cpu"} for c in model.copies):
            return (
                "its device is the CPU, whose memory is RAM already. Start with disk_swap, or"
                " unload it instead."
            )
        return "its weights cannot be put away and had back. Unload it instead."

    async def _keep(self, change: Callable[[KeptModels], None]) -> None:
        if self._kept is None:
            raise InvalidRequest(
                "'persist' is true, but this instance keeps nothing: start it with data_dir set.",
                param="persist",
            )
        try:
            await asyncio.to_thread(change, self._kept)
        except OSError as error:
            raise StorageFailed(
                f"Nothing has changed, as {self._kept.path} cannot be written: {error.strerror}."
            ) from error


def _is_same(served: ModelSettings, wanted: ModelSettings, commit: str | None) -> bool:
    """Whether a model is served as it is wanted."""
    before, after = served.model_dump(), wanted.model_dump()
    if commit is not None and wanted.revision == commit:
        before["revision"] = commit
    return before == after
