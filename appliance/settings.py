# SPDX-License-Identifier: Apache-2.0
"""The one settings tree.

A setting is a field here and nowhere else: its flag, its ``APPLIANCE_*`` variable, its place in
the JSON file, its entry in ``appliance config schema`` and its line in the README's table all come
from the field, its type and its docstring. How the sources are read and how faults are told is
in :mod:`appliance.configuration`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from appliance.model_settings import EMBEDDED_PREFIX, ModelSettings, TokenIds, decode_items

__all__ = ["EMBEDDED_PREFIX", "ENV_PREFIX", "ModelSettings", "Settings", "TokenIds"]

ENV_PREFIX = "APPLIANCE_"
DEFAULT_MODEL = f"{EMBEDDED_PREFIX}all-MiniLM-L6-v2"


def _models_from_shorthand(value: object) -> object:
    """Accept ``"a,b"``, ``["a", {...}]`` and, from ``APPLIANCE_MODELS__0__...``, ``{"0": {}}``."""
    value = decode_items(value)
    if isinstance(value, dict) and "model" in value:
        value = [value]
    if isinstance(value, dict) and value and all(str(key).isdigit() for key in value):
        value = [value[key] for key in sorted(value, key=int)]
    if isinstance(value, (list, tuple)):
        return tuple({"model": item} if isinstance(item, str) else item for item in value)
    return value


class Settings(BaseSettings):
    """What can be set for one instance."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        # Lists arrive as JSON or as "a,b"; the validators below tell them apart.
        enable_decoding=False,
    )

    host: str = "127.0.0.1"
    """Address to listen on. `0.0.0.0`: every interface."""

    port: int = Field(default=8080, ge=0, le=65535)
    """Port to listen on. `0`: any free one, printed at the start."""

    models: Annotated[tuple[ModelSettings, ...], BeforeValidator(_models_from_shorthand)] = Field(
        default=(ModelSettings(model=DEFAULT_MODEL),), min_length=1
    )
    """The models to serve; the first is the default one. Each is a model's name or an object of
    the per-model settings below."""

    api_keys: tuple[SecretStr, ...] = ()
    """Bearer tokens that may use the API. Unset: no token is asked for."""

    hf_token: SecretStr | None = None
    """Token for gated or private models on the hub. `HF_TOKEN` works too."""

    hub_cache: Path | None = None
    """Folder that downloads are kept in. Unset: the hub library's own, `HF_HOME` respected."""

    swap_dir: Path | None = None
    """Folder for weights that are larger than the memory they may take and cannot be read straight
    from the model's own files."""

    token_vocabulary_dir: Path | None = None
    """Folder with tiktoken's vocabulary files, as in `TIKTOKEN_CACHE_DIR`, which works too.
    Unset: the one that came with the installation, else a download."""

    environment: dict[str, str] = {}
    """Further environment variables, set before anything loads."""

    cpu_workers: PositiveInt | None = None
    """Batches that a CPU works on at once; the cores are shared out evenly. Unset: one for each
    core, eight at most."""

    model_wait_seconds: NonNegativeFloat = 30.0
    """Longest that a request waits for a model that is still loading."""

    request_timeout_seconds: PositiveFloat = 60.0
    """Longest wait for the rest of a request's body."""

    drain_timeout_seconds: NonNegativeFloat = 30.0
    """Time that accepted work has to finish when the server is told to stop."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages that are logged."""

    secrets_omitted: tuple[str, ...] = ()
    """Written by `config export`: secrets that the file does not hold and the new instance has to
    be given by other means. The start is refused while one is missing."""

    @field_validator("api_keys", "secrets_omitted", "environment", mode="before")
    @classmethod
    def _decode_strings(cls, value: object) -> object:
        return decode_items(value)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        seen: set[str] = set()
        for model in self.models:
            for name in (model.name, *model.aliases):
                if name in seen:
                    raise ValueError(
                        f"two models answer to {name!r}; give one of them another `name`"
                        " or take the alias away"
                    )
                seen.add(name)
        return self
