# SPDX-License-Identifier: Apache-2.0
"""An instance as a JSON object that starts an equal one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from appliance.faults import is_secret, sounds_secret
from appliance.model_sources import is_hub_name
from appliance.settings import ModelSettings, Settings

__all__ = [
    "change_setting",
    "export_settings",
    "known_commits",
    "secret_settings",
    "shown_values",
]


def secret_settings() -> list[str]:
    """Names of the settings that hold secrets."""
    return [name for name in Settings.model_fields if is_secret(name)]


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
    omitted = [name for name in secret_settings() if getattr(settings, name)]
    data = settings.model_dump(mode="json", exclude_none=True, exclude=set(omitted))
    data["secrets_omitted"] = omitted
    for model in data["models"]:
        if commit := (commits or {}).get(model["name"]):
            model["revision"] = commit
    for key in [key for key in settings.environment if sounds_secret(key)]:
        del data["environment"][key]
        data["secrets_omitted"].append(f"environment.{key}")
    return data


def change_setting(data: dict[str, Any], path: str, value: Any) -> None:
    """Change one value of an export.

    Args:
        data: The export; it is changed in place.
        path: Where, such as ``port`` or ``models.0.dtype``.
        value: As JSON has it. ``None``: what is there is taken out.

    Raises:
        LookupError: There is no such place.
    """
    *outer, last = path.split(".")
    place: Any = data
    try:
        for part in outer:
            place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
        key: Any = int(last) if isinstance(place, list) else last
        if value is not None:
            place[key] = value
        elif isinstance(place, list) or key in place:
            del place[key]
    except (AttributeError, IndexError, TypeError, ValueError):
        raise LookupError(f"there is no {path}") from None


def shown_values(settings: Settings) -> dict[str, Any]:
    """Every setting's value in force, but for secrets, which are not there."""
    data = settings.model_dump(mode="json", exclude=set(secret_settings()))
    data["environment"] = {
        key: value for key, value in settings.environment.items() if not sounds_secret(key)
    }
    return data


def known_commits(
    models: Iterable[ModelSettings], cache: Path | None
) -> tuple[dict[str, str], list[str]]:
    """The commits that models of the hub were downloaded at. Blocks; asks no hub.

    Args:
        models: The models, those from elsewhere too.
        cache: The setting ``hub_cache``.

    Returns:
        By a model's name, its commit; and the names of those whose commit is not known.
    """
    of_the_hub = [model for model in models if is_hub_name(model.model)]
    if not of_the_hub:
        return {}, []
    # Not at the top: settings may name variables that say where the hub's cache is.
    from appliance.engine.hub import commit_at_hand

    found = {m.name: commit_at_hand(m.model, m.revision, cache) for m in of_the_hub}
    known = {name: commit for name, commit in found.items() if commit is not None}
    return known, [name for name in found if name not in known]
