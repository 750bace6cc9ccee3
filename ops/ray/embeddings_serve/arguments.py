# SPDX-License-Identifier: Apache-2.0
"""What a deployment is told: arguments of its own, and the server's settings."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from appliance.access.door import is_open
from appliance.configuration import check_values, load_settings
from appliance.faults import Fault, SettingsFault, tell_faults
from appliance.settings import Settings

__all__ = ["Arguments", "read_arguments", "read_settings"]

ANY_ADDRESS = "0.0.0.0"  # noqa: S104  # as it counts for who needs a key; nothing listens by it


class Arguments(BaseModel):
    """``args`` of an application in a Serve config file."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    config: dict[str, Any] = {}
    """The server's settings, as in its JSON file. Unset: the file that `APPLIANCE_CONFIG` names, if
    any. `APPLIANCE_*` variables go before it; secrets come from them alone."""

    models_per_replica: PositiveInt = 4
    """Models that a replica holds at once. The one that was asked for least lately goes first."""

    cpus: PositiveFloat = 1
    """CPUs that Ray sets aside for a replica. Without a GPU it works on as many batches at once."""

    gpus: NonNegativeFloat = 0
    """GPUs that Ray sets aside for a replica. Half a one: two replicas share it."""

    tries: PositiveInt = 3
    """Replicas that are asked, one after the other, when they die over a request."""

    wait_seconds: PositiveFloat = 300
    """Longest that a request takes, with the start of a replica where there is none. Then it is
    answered 503."""


def read_arguments(given: dict[str, Any]) -> Arguments:
    """Check arguments.

    Raises:
        SettingsFault: One is unknown or bad.
    """
    try:
        return Arguments.model_validate(given)
    except ValidationError as error:
        known = ", ".join(Arguments.model_fields)
        faults = tell_faults(error, "args")
        raise SettingsFault([*faults, f"args: known are {known}"]) from None


def read_settings(config: dict[str, Any]) -> Settings:
    """Read the settings of a process of the application.

    Each process reads them for itself, so that secrets travel by nothing but its environment.

    Args:
        config: As in :class:`Arguments`.

    Raises:
        SettingsFault: They are bad, or do not go with Ray.
    """
    if faults := check_values(config):
        raise SettingsFault(Fault(f"args.config.{each.param}", each.message) for each in faults)
    if config:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "appliance.json"
            file.write_text(json.dumps(config), encoding="utf-8")
            settings = load_settings(config=file)
    else:
        settings = load_settings()
    settings = settings.model_copy(update={"host": ANY_ADDRESS})  # whatever Ray's proxies listen on
    if faults := _faults_on_ray(settings):
        raise SettingsFault(faults)
    return settings


def _faults_on_ray(settings: Settings) -> list[Fault]:
    faults = []
    if settings.database_url is None:
        if settings.data_dir is not None:
            told = (
                "replicas share what outlives them by PostgreSQL and a folder that each can reach:"
                " set APPLIANCE_DATABASE_URL as well, or take data_dir away"
            )
            faults.append(Fault("data_dir", told))
        elif not settings.api_keys and not is_open(settings):
            told = (
                "on Ray a key is asked for, and there is none that all replicas know: set"
                " APPLIANCE_API_KEYS, or APPLIANCE_DATABASE_URL, a PostgreSQL for tokens, or auth"
                " to none"
            )
            faults.append(Fault("auth", told))
    if settings.tls_certificate is not None:
        told = "Ray's proxies speak HTTP; have TLS end before them, and take tls_certificate away"
        faults.append(Fault("tls_certificate", told))
    if settings.idle_time_limit_hours is not None:
        told = "replicas come and go by Ray's autoscaling; set min_replicas to 0 there"
        faults.append(Fault("idle_time_limit_hours", told))
    return faults
