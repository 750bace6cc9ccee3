# SPDX-License-Identifier: Apache-2.0
"""The one settings tree.

A setting is a field here and nowhere else: its flag, its ``APPLIANCE_*`` variable, its place in
the JSON file, its entry in ``appliance config schema`` and its line in the README's table all come
from the field, its type and its docstring. How the sources are read and how faults are told is
in :mod:`appliance.configuration`.
"""

from __future__ import annotations

import os
import tempfile
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

from appliance.model_settings import ModelSettings, TokenIds, decode_items
from appliance.model_sources import EMBEDDED_PREFIX
from appliance.published import name_in_the_way, tell_clash
from appliance.setting_values import CollectorUrl, DatabaseUrl, Origin, QueueName, Route

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

    name: str = Field(default="appliance", min_length=1)
    """Name of this instance, for those who watch it."""

    project: str | None = None
    """Label that this instance shares with others that belong together."""

    queue: QueueName | None = None
    """Placement: name of the scheduler's queue or node pool, written into the Kubernetes and Ray
    specs; `appliance embed --ray` goes there, too."""

    route: Route | None = None
    """Public URL (`https://ai.example.com/embeddings`) or path (`/embeddings`) under which a
    gateway publishes the server; it may cut the path off or pass it on. The endpoints that the
    server tells begin with it. Unset: it is reached by host and port as they are."""

    host: str = "127.0.0.1"
    """Address to listen on. `0.0.0.0`: every interface."""

    port: int = Field(default=8080, ge=0, le=65535)
    """Port to listen on. `0`: any free one, printed at the start."""

    reuse_port: bool = False
    """Let other servers of the same user that have this set listen on the same `host` and `port`;
    the system shares the connections out."""

    models: Annotated[tuple[ModelSettings, ...], BeforeValidator(_models_from_shorthand)] = Field(
        default=(ModelSettings(model=DEFAULT_MODEL),), min_length=1
    )
    """The models to serve; the first is the default one. Each is a model's name or an object of
    the per-model settings below."""

    any_model_name: bool = False
    """Answer for the default model where a request to OpenAI's API names one that is not served, or
    none, and log a warning, once for each name. On when the server is started by TEI's variables.
    """

    api_keys: tuple[SecretStr, ...] = ()
    """Bearer tokens that may do everything, besides those of `appliance token create`."""

    auth: Literal["auto", "required", "none"] = "auto"
    """Whether requests need a token. `auto`: not on loopback (`127.0.0.1`, `::1`, `localhost`)
    while `api_keys` is unset, else yes. Where one is needed and none exists, a first one is made
    and printed to the log."""

    database_url: DatabaseUrl | None = None
    """PostgreSQL database for tokens, their quotas, and the list of files and batches,
    `postgresql://user:password@host/name`, which several instances may share. Unset: a SQLite file
    in `data_dir`, and each process counts quotas for itself."""

    otlp_endpoint: CollectorUrl | None = None
    """URL of the collector that traces and metrics are sent to by OTLP, such as
    `http://collector:4318`; with port 4317 by gRPC. It goes before `OTEL_EXPORTER_OTLP_ENDPOINT`;
    the other `OTEL_*` variables work too. Unset: nothing is sent."""

    public_metrics: bool = False
    """Serve `/metrics` without a token. Off: it takes one of the scope `admin`, where tokens are
    needed at all."""

    te_metrics: bool = False
    """Have `/metrics` tell by the names of text-embeddings-inference (TEI), too, `te_request_count`
    and so on. On when the server is started by TEI's variables."""

    tls_certificate: Path | None = None
    """File with the certificate to serve HTTPS with, and its chain, in PEM form. Unset: HTTP."""

    tls_key: Path | None = None
    """File with the certificate's key. Unset: it is in the file of the certificate."""

    cors_allow_origins: tuple[Origin, ...] = ()
    """Origins whose web pages may call the API, such as `https://app.example.com`; `*`: all.
    Unset: none."""

    hf_token: SecretStr | None = None
    """Token for gated or private models on the hub. `HF_TOKEN` works too."""

    hub_cache: Path | None = None
    """Folder that downloads are kept in. Unset: the hub library's own, `HF_HOME` respected."""

    automatic_cpu_offload: bool = False
    """Park idle models in page-locked RAM when an accelerator has no room for all. Off, and
    `disk_swap` too: they are unloaded, and loaded anew when they are asked for."""

    disk_swap: bool = False
    """Park idle models on disk when the device has no room for all. Not together with
    `automatic_cpu_offload`."""

    max_cuda_memory_gib: PositiveFloat | None = None
    """Memory that each accelerator is taken to have, in GiB. What is more than the hardware has is
    taken from RAM, where idle models are parked. Without an accelerator: the RAM that weights may
    take. Unset: most of what is free at the start."""

    cuda_memory_min_threshold_kib: int | None = Field(default=None, ge=-1)
    """Tensors of up to this size, in KiB, stay on the accelerator when their model is parked;
    `-1`: none does. Unset: `-1` with one accelerator, `66000` with several."""

    swap_dir: Path | None = None
    """Folder for weights that are swapped to disk and cannot be read back from the model's own
    files, and for layers of models that fit in no memory. Unset: one in `/var/tmp`."""

    turn_seconds: PositiveFloat = 0.5
    """Time that a model with work keeps its place on the device, once it has come, while others
    wait for it; longer for models whose moves take long."""

    data_dir: Path | None = None
    """Folder for what outlives a restart: models that were added at run time, tokens, time series,
    files, batches and an imported configuration."""

    idle_time_limit_hours: PositiveFloat | None = None
    """Stop, with exit code 0, after so many hours without a request for an embedding. Unset:
    never."""

    last_action_report_interval_seconds: PositiveFloat | None = None
    """How often to log when the last request came, and to write it to `last_action_file`. Unset:
    never."""

    last_action_file: Path | None = None
    """File for that report, for an orchestrator to watch: JSON, replaced as a whole."""

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

    forward_timeout_seconds: PositiveFloat = 300.0
    """Time after which a batch under way is taken to hang: its requests are answered 503, and
    `/health` is red until it ends. The trial passes of a model that is loading have as long."""

    drain_timeout_seconds: NonNegativeFloat = 30.0
    """Time that accepted work has to finish when the server is told to stop."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages that are logged. `debug` has a line for each request."""

    log_json: bool = False
    """Log one JSON object a line, rather than text."""

    debug: bool = False
    """For finding faults: `log_level` is `debug`, and warnings and errors carry the traceback of
    what caused them."""

    secrets_omitted: tuple[str, ...] = ()
    """Written by `config export`: secrets that the file does not hold and the new instance has to
    be given by other means. The start is refused while one is missing."""

    @property
    def swap_folder(self) -> Path:
        """Where weights are swapped to."""
        if self.swap_dir is not None:
            return self.swap_dir.expanduser()
        # What survives a restart lies on a disk; the folder of temporary files is often in RAM.
        spool = Path("/var/tmp")  # noqa: S108  # a folder of its own user's is made in it
        parent = spool if spool.is_dir() else Path(tempfile.gettempdir())
        return parent / f"embeddings-appliance-{os.getuid()}"

    @field_validator(
        "api_keys", "cors_allow_origins", "secrets_omitted", "environment", mode="before"
    )
    @classmethod
    def _decode_strings(cls, value: object) -> object:
        return decode_items(value)

    @model_validator(mode="after")
    def _has_a_certificate_for_its_key(self) -> Self:
        if self.tls_key is not None and self.tls_certificate is None:
            raise ValueError("tls_key is set, but tls_certificate, which it belongs to, is not")
        return self

    @model_validator(mode="after")
    def _parks_in_one_place(self) -> Self:
        if self.automatic_cpu_offload and self.disk_swap:
            raise ValueError(
                "automatic_cpu_offload and disk_swap are both on; idle models can be parked in RAM"
                " or on disk, so turn one of them off"
            )
        if self.last_action_file is not None and self.last_action_report_interval_seconds is None:
            raise ValueError(
                "last_action_file is set, but last_action_report_interval_seconds, which says how"
                " often it is written, is not"
            )
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        seen: set[str] = set()
        for model in self.models:
            for name in model.names:
                if name in seen:
                    raise ValueError(
                        f"two models answer to {name!r}; give one of them another `name`"
                        " or take the alias away"
                    )
                seen.add(name)
        if clashing := name_in_the_way(self.route, seen):
            raise ValueError(tell_clash(self.route, clashing))
        return self
