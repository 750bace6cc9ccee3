# SPDX-License-Identifier: Apache-2.0
"""Where settings come from, which source beats which, and what is wrong with them.

Flags beat the environment, the environment beats the file, the file beats the defaults.

Flags and variables of TEI's (:mod:`appliance.tei_start`) stand between the environment and the
file. They name the one model that is served, so that what the file says of models is passed over.

The file is the one that was kept in ``data_dir`` by ``PUT /api/config``, if there is one, else the
one that ``--config`` names. Where the kept one is in force, the other is asked for two things only:
``data_dir`` itself, which says where the kept one lies and so cannot be set in it; and the secrets
that the kept one leaves out, as it never holds any.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
)

from appliance.faults import Fault, SettingsFault, find_faults, is_secret, sounds_secret
from appliance.model_settings import decode_items
from appliance.settings import ENV_PREFIX, Settings
from appliance.settings_sources import (
    CONFIG_VARIABLE,
    Values,
    by_number,
    read_environment,
    read_file,
    unknown_variables,
)
from appliance.tei_start import read_tei

__all__ = [
    "Configuration",
    "Source",
    "check_values",
    "kept_file",
    "load_settings",
    "read_configuration",
]

Source = Literal["flags", "environment", "tei", "kept", "file", "tei_defaults"]
Layers = Mapping[Source, Values]

_ORDER: tuple[Source, ...] = ("flags", "environment", "tei", "kept", "file", "tei_defaults")
_OVER_TEI: tuple[Source, ...] = ("flags", "environment")


def kept_file(folder: Path) -> Path:
    """The file that ``PUT /api/config`` writes, given the setting ``data_dir``."""
    return folder.expanduser() / "config.json"


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings, and where they came from.

    Attributes:
        settings: Those in force.
        layers: What each source said; flags, environment and the rest as they were at the start.
        kept: The kept file, if that is in force.
        notes: Lines for the log.
    """

    settings: Settings
    layers: Layers
    kept: Path | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> Configuration:
        """The configuration of an instance that was given its settings by a program."""
        said = {name: getattr(settings, name) for name in settings.model_fields_set}
        return cls(settings, {"flags": {}, "environment": {}, "file": said})

    @property
    def sources(self) -> dict[str, Source]:
        """By setting, the source that it comes from; those at their default are not there."""
        return _sources(self.layers)

    @property
    def overridden(self) -> dict[str, Source]:
        """By setting, the source that has another value than the kept configuration in force."""
        kept = self.layers.get("kept", {})
        wanted = _validated({"file": kept})
        return {
            name: source
            for name, source in _sources(self.layers).items()
            if name in kept
            and source != "kept"
            and not is_secret(name)
            and _open(wanted, name) != _open(self.settings, name)
        }

    def with_kept(self, values: Values) -> tuple[Configuration | None, list[Fault]]:
        """What the next start would find if values were kept.

        Args:
            values: As an export has them.

        Returns:
            It, or ``None`` if there would be no start; and what is wrong with the values.
        """
        if faults := check_values(values):
            return None, faults
        layers = {**self.layers, "kept": by_number(values)}
        try:
            settings = _validated(_in_force(layers))
        except ValidationError as error:
            return None, find_faults(error)
        if faults := _missing_secrets(settings):
            return None, faults
        return replace(self, settings=settings, layers=layers), []


def check_values(values: Values) -> list[Fault]:
    """Say what is wrong with values on their own, such as that they hold a secret."""
    secrets = sorted(name for name, value in values.items() if is_secret(name) and value)
    faults = [_in_clear(name, f"{ENV_PREFIX}{name.upper()}") for name in secrets]
    rest = {name: value for name, value in values.items() if not is_secret(name)}
    try:
        settings = _validated({"file": by_number(rest)})
    except ValidationError as error:
        return faults + find_faults(error)
    return faults + [
        _in_clear(f"environment.{key}", f"{ENV_PREFIX}ENVIRONMENT__{key}")
        for key in settings.environment
        if sounds_secret(key)
    ]


def _in_clear(name: str, variable: str) -> Fault:
    return Fault(
        name, f"a configuration holds no secrets; set {variable}, and name it in secrets_omitted"
    )


def load_settings(
    flags: CliSettingsSource[Settings] | None = None, config: Path | None = None
) -> Settings:
    """Read every source and check the whole; see :func:`read_configuration`."""
    return read_configuration(flags, config).settings


def read_configuration(
    flags: CliSettingsSource[Settings] | None = None,
    config: Path | None = None,
    tei_flags: Mapping[str, Any] | None = None,
) -> Configuration:
    """Read every source and check the whole.

    Args:
        flags: Source that holds the parsed flags, if there were any.
        config: JSON file. Unset: the one named by ``APPLIANCE_CONFIG``, if any.
        tei_flags: Flags of TEI's, by the names of its variables.

    Raises:
        SettingsFault: A key is unknown, a value is bad, or settings contradict each other.
    """
    if config is None and os.environ.get(CONFIG_VARIABLE):
        config = Path(os.environ[CONFIG_VARIABLE])
    faults: list[str | Fault] = [*unknown_variables()]
    try:
        layers: dict[Source, Values] = {
            "flags": {} if flags is None else dict(flags()),
            "environment": read_environment(),
            "file": {} if config is None else by_number(read_file(config)),
        }
    except (OSError, TypeError, ValueError) as error:
        raise SettingsFault([*faults, f"{config}: {error}"]) from None
    kept = _kept_of(layers)
    if kept is not None:
        layers["kept"] = _read_kept(kept)
    tei = read_tei(tei_flags or {}, layers["flags"])
    layers["tei_defaults"] = tei.defaults(layers.values())
    layers["tei"] = tei.values
    above = [layers[source] for source in _OVER_TEI]
    try:
        settings = _validated(_in_force(layers))
    except ValidationError as error:
        found = [tei.rename(fault, above) for fault in find_faults(error)]
        raise SettingsFault([*faults, *found]) from None
    if faults := [*faults, *_missing_secrets(settings)]:
        raise SettingsFault(faults)
    return Configuration(settings, layers, kept, tei.notes(above))


def _kept_of(layers: Layers) -> Path | None:
    """The kept file, if there is one. Where it would be has to be told by the other sources."""
    said = [layers[source].get("data_dir") for source in _ORDER if source in layers]
    folder = next((folder for folder in said if folder), None)
    if not isinstance(folder, (str, Path)):
        return None
    try:
        path = kept_file(Path(folder))
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError) as error:  # there can be no such folder
        raise SettingsFault([f"data_dir: {error}"]) from None


def _read_kept(path: Path) -> Values:
    try:
        values = read_file(path)
        faults = [str(fault) for fault in check_values(values)]
    except (OSError, TypeError, ValueError) as error:
        faults = [str(error)]
    if faults:
        way_out = "correct the file that PUT /api/config has kept, or remove it to start without"
        raise SettingsFault([f"{path}: {fault}; {way_out}" for fault in faults])
    return by_number(values)


def _in_force(layers: Layers) -> dict[Source, Values]:
    """The layers without what the kept one takes the place of."""
    kept, file = layers.get("kept"), layers.get("file", {})
    if "models" in layers.get("tei", {}):
        file = _without(file, "models")
        kept = None if kept is None else _without(kept, "models")
    if kept is None:
        return {**layers, "file": file}
    omitted = [str(name) for name in _as_list(kept.get("secrets_omitted"))]
    rest = {name: file[name] for name in ("data_dir", *omitted) if name in file}
    if isinstance(variables := file.get("environment"), dict):
        keys = [name.removeprefix("environment.") for name in omitted]
        rest["environment"] = {key: variables[key] for key in keys if key in variables}
    kept = _without(kept, "data_dir")
    return {**layers, "kept": kept, "file": {name: value for name, value in rest.items() if value}}


def _without(values: Values, name: str) -> Values:
    return {key: value for key, value in values.items() if key != name}


def _sources(layers: Layers) -> dict[str, Source]:
    layers = _in_force(layers)
    return {
        name: source
        for source in reversed(_ORDER)
        for name in layers.get(source, {})
        if name in Settings.model_fields
    }


def _open(settings: Settings, name: str) -> Any:
    """A setting's value, but for the secrets in it, which no configuration holds."""
    value = getattr(settings, name)
    if name != "environment":
        return value
    return {key: content for key, content in value.items() if not sounds_secret(key)}


def _as_list(names: object) -> list[Any]:
    names = decode_items(names)
    return names if isinstance(names, list) else []


def _validated(layers: Layers) -> Settings:
    class FromLayers(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(
                InitSettingsSource(settings_cls, layers[source])
                for source in _ORDER
                if source in layers
            )

    return FromLayers()


def _missing_secrets(settings: Settings) -> list[Fault]:
    faults = []
    for name in settings.secrets_omitted:
        head, _, key = name.partition(".")
        given = key in settings.environment if key else getattr(settings, head, None)
        if not given and not (head == "hf_token" and os.environ.get("HF_TOKEN")):
            variable = f"{ENV_PREFIX}{head.upper()}" + (f"__{key}" if key else "")
            told = (
                f"the imported file leaves out {name!r}; set {variable}, or take {name!r} from the"
                " list to start without it"
            )
            faults.append(Fault("secrets_omitted", told))
    return faults
