# SPDX-License-Identifier: Apache-2.0
"""The one settings tree.

A setting is a field here and nowhere else: its flag, its ``APPLIANCE_*`` variable, its place in
the JSON file, its entry in ``appliance config schema`` and its line in the README's table all come
from the field, its type and its docstring. How the sources are read and how faults are told is
in :mod:`appliance.configuration`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["EMBEDDED_PREFIX", "ENV_PREFIX", "ModelSettings", "Settings", "TokenIds"]

ENV_PREFIX = "APPLIANCE_"
EMBEDDED_PREFIX = "embedded:"
DEFAULT_MODEL = f"{EMBEDDED_PREFIX}all-MiniLM-L6-v2"

Pooling = Literal["cls", "mean", "max", "last_token", "weighted_mean", "mean_sqrt_len"]
TokenIds = Literal["cl100k_base", "native", "reject"]


class ModelSettings(BaseModel):
    """What can be set for one served model."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True
    )

    model: str = Field(min_length=1)
    """Where the model comes from: a hub name (`BAAI/bge-small-en-v1.5`), a local folder, or
    `embedded:all-MiniLM-L6-v2`, which needs no download."""

    name: str = ""
    """The name clients ask for. Unset: the hub name, the folder's own name, or what follows
    `embedded:`."""

    aliases: tuple[str, ...] = ()
    """Further names that reach the same model, such as `text-embedding-3-small`."""

    revision: str | None = None
    """Commit, branch, tag or `refs/pr/N` on the hub. Unset: the main branch."""

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Number format of weights and arithmetic. `auto`: float32 on a CPU, bfloat16 on an
    accelerator that has it."""

    device_map: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """Device that the model runs on: `auto` (an accelerator where there is one), `cpu`, `cuda`
    or `cuda:N`."""

    pooling: Pooling | None = None
    """How token vectors become one vector. Unset: as the model's own files say."""

    normalize: bool | None = None
    """Whether vectors are scaled to unit length. Unset: on OpenAI's route yes, as OpenAI's are. A
    request may say otherwise."""

    truncate: bool = False
    """Cut texts that are longer than the model reads, rather than refuse them. A request may say
    otherwise."""

    prompts: dict[str, str] | None = None
    """Prompts by name, beside those in the model's files or in their place, such as
    `{"query": "query: "}`. A request picks one by `prompt_name` or `input_type`."""

    default_prompt_name: str | None = None
    """Prompt that goes before each text where the request says nothing. Unset: as the model's own
    files say."""

    token_ids: TokenIds = "cl100k_base"  # noqa: S105  # the name of a vocabulary
    """What a list of token ids in `input` means: ids of OpenAI's `cl100k_base`, which are decoded
    and tokenised anew for the model; `native` ids of the model's own vocabulary, used as they
    are; or `reject`. A request may say otherwise with `token_encoding`."""

    max_input_tokens: PositiveInt | None = None
    """Longest text in tokens, special tokens included. Unset: what the model was made for."""

    max_client_batch_size: PositiveInt = 2048
    """Most inputs in one request."""

    max_request_tokens: PositiveInt = 300_000
    """Most tokens in one request, all inputs together."""

    max_concurrent_requests: PositiveInt = 512
    """Most requests being worked on at once; one more is answered 429."""

    max_queue_tokens: PositiveInt = 1_000_000
    """Most tokens waiting for this model; a request that would exceed it is answered 429, unless
    nothing else waits."""

    max_batch_tokens: PositiveInt = 16384
    """Most tokens in one forward pass. A CPU works on smaller batches, which its caches hold."""

    max_batch_requests: PositiveInt | None = None
    """Most texts in one forward pass."""

    payload_limit: PositiveInt = 32_000_000
    """Largest request body in bytes."""

    tokenization_workers: PositiveInt | None = None
    """Threads that tokenise. Unset: one for each core but one."""

    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for authors you trust."""

    @field_validator("aliases", mode="before")
    @classmethod
    def _decode_aliases(cls, value: object) -> object:
        return _decode(value)

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name") and isinstance(data.get("model"), str):
            data = {**data, "name": _name_of(data["model"])}
        return data

    @model_validator(mode="after")
    def _names_fit_in_a_url(self) -> Self:
        for name in (self.name, *self.aliases):
            if not name or name != name.strip("/ ") or any(c.isspace() or c in "?#%" for c in name):
                raise ValueError(
                    f"name {name!r} cannot stand in a URL: it needs at least one character, and"
                    " none of white space, '?', '#', '%' or a slash at either end"
                )
            if name.count("/") > 1:
                raise ValueError(f"name {name!r} has more than one slash; set a shorter name")
        return self


def _name_of(model: str) -> str:
    if model.startswith(EMBEDDED_PREFIX):
        return model.removeprefix(EMBEDDED_PREFIX)
    is_path = model.startswith((".", "/", "~")) or Path(model).is_dir()
    return Path(model).expanduser().resolve().name if is_path else model


def _decode(value: object) -> object:
    """Read the one string that a variable or a flag can hold.

    It is JSON (``[...]`` or ``{...}``), or items separated by commas, each a plain word or JSON:
    ``a,b`` and ``a,{"model": "b"}``.
    """
    if not isinstance(value, str):
        return value
    items: list[object] = []
    rest = value.strip()
    while rest:
        if rest[0] in '[{"':
            try:
                item, end = json.JSONDecoder().raw_decode(rest)
            except json.JSONDecodeError as error:
                raise ValueError(f"not valid JSON: {error}") from None
            rest = rest[end:].lstrip(" ,")
        else:
            word, _, rest = rest.partition(",")
            item, rest = word.strip(), rest.lstrip(" ,")
        items.append(item)
    return items[0] if len(items) == 1 and isinstance(items[0], (dict, list)) else items


def _models_from_shorthand(value: object) -> object:
    """Accept ``"a,b"``, ``["a", {...}]`` and, from ``APPLIANCE_MODELS__0__...``, ``{"0": {}}``."""
    value = _decode(value)
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
        return _decode(value)

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
