# SPDX-License-Identifier: Apache-2.0
"""Where settings come from, how faults are told, and how an instance is exported.

Flags beat the environment, the environment beats the file, the file beats the defaults.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
)

from appliance.settings import ENV_PREFIX, ModelSettings, Settings

__all__ = [
    "SettingsFault",
    "add_settings_flags",
    "describe_settings",
    "export_settings",
    "load_settings",
    "settings_schema",
    "tell_faults",
]

CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
_NO_SUCH_SETTING = "there is no such setting; `appliance config schema` lists them all"
_SECRET_WORDS = ("TOKEN", "KEY", "SECRET", "PASSW", "CREDENTIAL", "AUTH", "HEADERS")


class SettingsFault(Exception):
    """Settings that no instance can start with.

    Attributes:
        faults: One line for each fault, naming the setting and what is allowed.
    """

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def add_settings_flags(parser: argparse.ArgumentParser) -> CliSettingsSource[Settings]:
    """Give a command one flag for each setting.

    Returns:
        The source that :func:`load_settings` reads the parsed flags from.
    """
    source: CliSettingsSource[Settings] = CliSettingsSource(
        Settings,
        root_parser=parser,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        formatter_class=argparse.HelpFormatter,
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"JSON file with settings; {CONFIG_VARIABLE} works too",
    )
    return source


def load_settings(
    flags: CliSettingsSource[Settings] | None = None, config: Path | None = None
) -> Settings:
    """Read every source and check the whole.

    Args:
        flags: Source that holds the parsed flags, if there were any.
        config: JSON file. Unset: the one named by ``APPLIANCE_CONFIG``, if any.

    Raises:
        SettingsFault: A key is unknown, a value is bad, or settings contradict each other.
    """
    if config is None and os.environ.get(CONFIG_VARIABLE):
        config = Path(os.environ[CONFIG_VARIABLE])
    faults = _unknown_variables()
    try:
        settings = _read(flags, config)
    except ValidationError as error:
        raise SettingsFault(faults + tell_faults(error)) from None
    except (OSError, TypeError, ValueError) as error:
        raise SettingsFault([*faults, f"{config}: {error}"]) from None
    if faults := faults + _missing_secrets(settings):
        raise SettingsFault(faults)
    return settings


def _read(flags: CliSettingsSource[Settings] | None, config: Path | None) -> Settings:
    class FromAllSources(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            sources: list[PydanticBaseSettingsSource] = [_Environment(settings_cls)]
            if flags is not None:
                sources.insert(0, flags)
            if config is not None:
                sources.append(InitSettingsSource(settings_cls, _read_file(config)))
            return tuple(sources)

    return FromAllSources()


class _Environment(EnvSettingsSource):
    """``APPLIANCE_*``, with the spelling kept where a variable's name is itself a value."""

    def __call__(self) -> dict[str, Any]:
        values = super().__call__()
        prefix = f"{ENV_PREFIX}ENVIRONMENT__"
        named = {
            name.removeprefix(prefix): value
            for name, value in os.environ.items()
            if name.startswith(prefix)
        }
        if named:
            values["environment"] = named
        return values


def _read_file(config: Path) -> dict[str, Any]:
    if not config.is_file():
        raise FileNotFoundError("there is no such settings file")
    values = json.loads(config.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise TypeError("it must hold a JSON object")
    if isinstance(models := values.get("models"), list):
        # By number, as the environment has them, so that APPLIANCE_MODELS__0__... adds to the
        # file's model rather than taking its place.
        values["models"] = {
            str(number): {"model": model} if isinstance(model, str) else model
            for number, model in enumerate(models)
        }
    return values


def _unknown_variables() -> list[str]:
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields} | {CONFIG_VARIABLE}
    nested = {f"{ENV_PREFIX}MODELS", f"{ENV_PREFIX}ENVIRONMENT"}
    return [
        f"{variable}: {_NO_SUCH_SETTING}"
        for variable in sorted(os.environ)
        if variable.startswith(ENV_PREFIX)
        and variable not in known
        and not ("__" in variable and variable.partition("__")[0] in nested)
    ]


def _missing_secrets(settings: Settings) -> list[str]:
    faults = []
    for name in settings.secrets_omitted:
        head, _, key = name.partition(".")
        if not (key in settings.environment if key else getattr(settings, head, None)):
            variable = f"{ENV_PREFIX}{head.upper()}" + (f"__{key}" if key else "")
            faults.append(
                f"secrets_omitted: the imported file leaves out {name!r}; set {variable}, or take"
                f" {name!r} from the list to start without it"
            )
    return faults


def tell_faults(error: ValidationError, where: str = "") -> list[str]:
    """One line for each fault, naming the setting and what is allowed.

    Args:
        error: What pydantic found.
        where: Path of the whole that was checked, if that is a part of the settings.
    """
    return [_tell(fault, where) for fault in _first_causes(error)]


def _first_causes(error: ValidationError) -> list[Any]:
    """Faults that are not the mere consequence of another, such as a list that lost its items."""
    faults = error.errors()
    inner = {fault["loc"][0] for fault in faults if len(fault["loc"]) > 1}
    return [f for f in faults if f["type"] != "too_short" or f["loc"][0] not in inner]


def _tell(fault: Any, where: str) -> str:
    path = ".".join(str(part) for part in (where, *fault["loc"]) if part != "") or "settings"
    if fault["type"] == "extra_forbidden":
        return f"{path}: {_NO_SUCH_SETTING}"
    message = fault["msg"].removeprefix("Value error, ")
    head = str(fault["loc"][0]) if fault["loc"] else ""
    value = fault["input"]
    may_be_secret = head == "environment" or _is_secret(head)
    plain = isinstance(value, (str, int, float, bool)) and not may_be_secret
    return f"{path}: {message}" + (f" (given: {value!r})" if plain else "")


def _is_secret(name: str) -> bool:
    field = Settings.model_fields.get(name)
    return field is not None and SecretStr in _flatten(field.annotation)


def _flatten(annotation: Any) -> set[Any]:
    return {annotation}.union(*(_flatten(part) for part in get_args(annotation)))


def export_settings(settings: Settings, commits: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Write settings as the JSON object that starts an equal instance.

    Secrets are left out, and named under ``secrets_omitted``: an instance that imports the
    object does not start before each is given to it.

    Args:
        settings: The instance's.
        commits: By a model's name, the commit of the hub to write as its ``revision``, so that
            the instance which imports the object serves the same files whatever has become of the
            branch.
    """
    secrets = [name for name in Settings.model_fields if _is_secret(name)]
    omitted = [name for name in secrets if getattr(settings, name)]
    data = settings.model_dump(mode="json", exclude_none=True, exclude=set(omitted))
    data["secrets_omitted"] = omitted
    for model in data["models"]:
        if commit := (commits or {}).get(model["name"]):
            model["revision"] = commit
    for key in [key for key in settings.environment if _sounds_secret(key)]:
        del data["environment"][key]
        data["secrets_omitted"].append(f"environment.{key}")
    return data


def _sounds_secret(variable: str) -> bool:
    return any(word in variable.upper() for word in _SECRET_WORDS)


def settings_schema() -> dict[str, Any]:
    """JSON Schema of the settings file."""
    return Settings.model_json_schema()


def describe_settings() -> str:
    """Markdown tables of all settings, as they stand in the README."""
    lines = ["| Setting | Variable | Default | Meaning |", "| --- | --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        lines.append(_row(name, f"`{ENV_PREFIX}{name.upper()}`", field))
    lines += ["", "For each model, as an object in `models`:", ""]
    lines += ["| Setting | Values | Default | Meaning |", "| --- | --- | --- | --- |"]
    for name, field in ModelSettings.model_fields.items():
        lines.append(_row(name, _values(field.annotation), field))
    return "\n".join(lines) + "\n"


def _row(name: str, second: str, field: FieldInfo) -> str:
    meaning = " ".join((field.description or "").split())
    return f"| `{name}` | {second} | {_default(field.default)} | {meaning} |"


def _default(default: Any) -> str:
    if default in (None, "", (), PydanticUndefined) or default == {}:
        return ""
    if isinstance(default, tuple):
        return f"`{json.dumps([item.model for item in default])}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _values(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(_values(a) for a in get_args(annotation) if a is not type(None))
    if get_origin(annotation) is tuple:
        return "list of text"
    words = {
        str: "text",
        Path: "path",
        int: "number",
        float: "number",
        bool: "`true`, `false`",
    }
    for part in get_args(annotation) or (annotation,):
        if part in words:
            return words[part]
    return "object" if isinstance(annotation, type) and issubclass(annotation, BaseModel) else ""
