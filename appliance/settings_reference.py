# SPDX-License-Identifier: Apache-2.0
"""What can be set, for people and for tools: all of it comes from the settings tree."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from appliance.settings import ENV_PREFIX, ModelSettings, Settings

__all__ = ["describe_settings", "settings_schema"]


@cache
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
