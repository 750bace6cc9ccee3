# SPDX-License-Identifier: Apache-2.0
"""The configuration of a running instance: told, checked, and replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from appliance.configuration import Configuration, Source, check_values
from appliance.engine.service import Engine
from appliance.errors import Conflict, InvalidRequest
from appliance.exporting import (
    change_setting,
    export_settings,
    known_commits,
    secret_settings,
    shown_values,
)
from appliance.faults import Fault
from appliance.persistence import KeptModels
from appliance.settings import Settings
from appliance.settings_reference import settings_schema
from appliance.settings_sources import Values

__all__ = ["Reconfiguration", "Replaced", "SettingsReport"]


class SettingsReport(msgspec.Struct):
    """Answer of ``GET /api/config/schema``: what a form needs.

    Attributes:
        schema: JSON Schema of the settings, that of a model's inside.
        values: Every setting in force; secrets are not there.
        sources: Where settings that do not have their default come from.
        secrets: Names of settings that hold secrets.
        keeps: Whether this instance can keep another configuration.
    """

    schema: dict[str, Any]
    values: dict[str, Any]
    sources: dict[str, Source]
    secrets: list[str]
    keeps: bool


class Replaced(msgspec.Struct):
    """Answer of ``PUT /api/config``.

    Attributes:
        applied: What holds already.
        at_restart: Settings that hold from the next start on.
        overridden: Settings that will not hold, and the source that says otherwise.
    """

    applied: list[str]
    at_restart: list[str]
    overridden: dict[str, Source]


class Reconfiguration:
    """Tells and replaces the configuration.

    Args:
        configuration: That of the start.
        kept: The models that were added and removed for good, if such are kept.
    """

    def __init__(self, configuration: Configuration, kept: KeptModels | None) -> None:
        self._configuration = configuration
        self._kept = kept

    async def export(self, engine: Engine) -> dict[str, Any]:
        """The object that starts an equal instance, with the models that are served now."""
        settings = self._current(engine)
        return export_settings(settings, await _commits(engine))

    async def clone(self, engine: Engine, changes: Values) -> dict[str, Any]:
        """The export with some settings changed.

        Args:
            engine: The engine.
            changes: New values by their paths, such as ``models.0.dtype``; ``None`` takes out what
                is there.

        Raises:
            InvalidRequest: There is no such place, or no instance could start with it.
        """
        data = await self.export(engine)
        for path, value in changes.items():
            try:
                change_setting(data, path, value)
            except LookupError as error:
                told = f"The configuration cannot be changed so: {error.args[0]}."
                raise InvalidRequest(told, param=path) from None
        if faults := await asyncio.to_thread(check_values, data):
            raise _invalid(faults)
        return data

    def report(self, engine: Engine) -> SettingsReport:
        """All that a form needs."""
        return SettingsReport(
            settings_schema(),
            shown_values(self._current(engine)),
            self._configuration.sources,
            secret_settings(),
            self._kept is not None,
        )

    async def check(self, values: Values) -> list[Fault]:
        """What is wrong with a configuration, were it kept."""
        _, faults = await asyncio.to_thread(self._configuration.with_kept, values)
        return faults

    async def replace(self, engine: Engine, values: Values) -> Replaced:
        """Keep a configuration for the next start, and serve its models now.

        Args:
            engine: The engine.
            values: As an export has them.

        Raises:
            Conflict: Nothing is kept here.
            InvalidRequest: With all faults; nothing has changed.
            StorageFailed: It could not be written; nothing has changed.
        """
        kept = self._kept
        if kept is None:
            raise Conflict(
                "This instance keeps nothing: start it with data_dir set, to have a configuration"
                " kept there. An export can be started from with --config instead.",
                param="data_dir",
            )
        found, faults = await asyncio.to_thread(self._configuration.with_kept, values)
        if found is None:
            raise _invalid(faults)
        content = {name: value for name, value in values.items() if name != "data_dir"}
        overridden = await asyncio.to_thread(lambda: found.overridden)
        # If flags or the environment name the models, it is these that are changed at run time.
        with_models = "models" not in overridden
        changed = await engine.catalogue.replace(
            found.settings.models if with_models else None,
            await _commits(engine),
            lambda: kept.replace(content, with_models=with_models),
        )
        running = self._configuration.settings
        return Replaced(
            applied=["models"] if changed else [],
            at_restart=[
                name
                for name in Settings.model_fields
                if name not in ("models", "secrets_omitted")
                and getattr(found.settings, name) != getattr(running, name)
            ],
            overridden=overridden,
        )

    def _current(self, engine: Engine) -> Settings:
        models = tuple(model.settings for model in engine.models)
        return self._configuration.settings.model_copy(update={"models": models})


def _invalid(faults: Sequence[Fault]) -> InvalidRequest:
    told = "; ".join(str(fault) for fault in faults)
    return InvalidRequest(f"The configuration is invalid. {told}.", param=faults[0].param or None)


async def _commits(engine: Engine) -> Mapping[str, str]:
    """The commit of each model of the hub that is known, by the model's name."""
    models = [model.settings for model in engine.models]
    cache = engine.settings.hub_cache
    known, _ = await engine.in_background(lambda: known_commits(models, cache))
    loaded = {
        model.name: model.lane.backend.revision for model in engine.models if model.lane is not None
    }
    return known | {name: commit for name, commit in loaded.items() if commit is not None}
