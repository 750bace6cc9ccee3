# SPDX-License-Identifier: Apache-2.0
"""What can be set for one model; a part of the one settings tree, see :mod:`appliance.settings`."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from appliance.model_sources import check_source, name_of

__all__ = ["ModelSettings", "TokenIds", "check_keep_alive", "decode_items"]

MOST_NAME_CHARACTERS = 256
OWN_PATHS = frozenset({"api", "dashboard", "docs"})
"""First parts of the paths by which the server is managed and looked at."""


def check_keep_alive(seconds: float) -> float:
    """Pass on a time that a model may stay loaded.

    Raises:
        ValueError: It is none.
    """
    if seconds != -1 and not (0 <= seconds < math.inf):
        raise ValueError("must be a number of seconds from 0 on, or -1 for ever")
    return seconds


Pooling = Literal["cls", "mean", "max", "last_token", "weighted_mean", "mean_sqrt_len", "splade"]
MemorySize = Annotated[str, Field(pattern=r"^\d+(\.\d+)?\s*[KMGT]i?B$")]
KeepAlive = Annotated[float, AfterValidator(check_keep_alive)]
TokenIds = Literal["cl100k_base", "native", "reject"]


class ModelSettings(BaseModel):
    """What can be set for one served model."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True
    )

    model: str = Field(min_length=1)
    """Where the model comes from: a hub name (`BAAI/bge-small-en-v1.5`), a local folder,
    `clearml://` and the id of a ClearML model, or `embedded:all-MiniLM-L6-v2`, which needs no
    download."""

    name: str = ""
    """The name clients ask for. Unset: the hub name, the folder's own name, or what follows
    `embedded:` or `clearml://`."""

    aliases: tuple[str, ...] = ()
    """Further names that reach the same model, such as `text-embedding-3-small`."""

    revision: str | None = None
    """Commit, branch, tag or `refs/pr/N` on the hub. Unset: the main branch."""

    dtype: Literal["auto", "auto_fast", "float32", "float16", "bfloat16"] = "auto"
    """Number format of weights and arithmetic. `auto`: float32 on a CPU, bfloat16 on an
    accelerator that has it. `auto_fast`: bfloat16 on a CPU too, where it has instructions for it
    (AVX512-BF16 or AMX)."""

    quantization: Literal["none", "int8", "nf4", "fp4"] = "none"
    """Weights in fewer bits, by bitsandbytes: a quarter to an eighth of the memory, and vectors
    that are less exact. How close they come to float32's is measured and logged at load. `dtype`
    is what is computed in; `auto` is then bfloat16."""

    device_map: str = Field(default="auto", pattern=r"^(auto|balanced|cpu|cuda(:\d+)?)$")
    """Device that the model runs on: `auto` (the accelerator with the most room, else the CPU; a
    model that is too large for one is shared out over all, RAM and disk), `balanced` (its layers
    spread evenly over all accelerators), `cpu`, `cuda` or `cuda:N`."""

    max_memory: dict[str, MemorySize] | None = None
    """Most memory that the model's weights take of each device, such as
    `{"cuda:0": "20GiB", "cpu": "64GiB"}`. Layers for which there is no room are read from disk for
    each batch. Only with `device_map` `auto` or `balanced`."""

    replicas: PositiveInt = 1
    """Copies of the model, each on an accelerator of its own. They share one queue."""

    compile: bool = False
    """Compile the model at load with torch.compile: some percent more speed for a minute's wait.
    On a CPU it needs a C++ compiler. Where it fails, the model runs without."""

    pooling: Pooling | None = None
    """How token vectors become one vector. `splade`: one value for each word of the vocabulary, by
    the head of a masked language model. Unset: as the model's own files say."""

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

    calibration: Path | None = None
    """What the ranges of `output_dtype` `int8` and `uint8` are taken from: a text file of 100 to
    10 000 texts like yours, one a line; or an `.npy` file of their embeddings, or of two rows, the
    least and the greatest value of each dimension. Unset: texts that come with the server."""

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

    max_queue_seconds: PositiveFloat = 30.0
    """Longest that a request waits in the queue; one that would have to wait longer, at the pace
    so far, is answered 429 at once, and one that nothing was computed of by then likewise.
    Gateways commonly give up after 60 seconds; the default leaves half of that for the computing.
    """

    max_batch_tokens: PositiveInt = 16384
    """Most tokens in one forward pass. A CPU works on smaller batches, which its caches hold."""

    max_batch_requests: PositiveInt | None = None
    """Most texts in one forward pass."""

    payload_limit: PositiveInt = 32_000_000
    """Largest request body in bytes."""

    tokenization_workers: PositiveInt | None = None
    """Threads that tokenise. Unset: one for each core but one."""

    eager: bool = True
    """Load the model at the start, rather than at the first request for it."""

    pinned: bool = False
    """Never give the model's place on the device to another."""

    keep_alive: KeepAlive = -1
    """Seconds after the last request for it after which the model is unloaded; `0`: at once, `-1`:
    never. A request may say otherwise, until the next one does or the model is unloaded."""

    pickle_weights: bool = False
    """Read weights in PyTorch's older format (`pytorch_model.bin`) where a model has no
    safetensors. Such files can run code when they are read; torch guards against it, and has
    failed to before. Only for authors you trust."""

    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for authors you trust."""

    @property
    def names(self) -> tuple[str, ...]:
        """All that it answers to."""
        return (self.name, *self.aliases)

    @field_validator("aliases", mode="before")
    @classmethod
    def _decode_aliases(cls, value: object) -> object:
        return decode_items(value)

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("name", "") != "":
            return data
        model = data.get("model")
        return {**data, "name": name_of(model)} if isinstance(model, str) else data

    @model_validator(mode="after")
    def _source_is_possible(self) -> Self:
        check_source(self.model, self.revision)
        return self

    @model_validator(mode="after")
    def _placement_is_possible(self) -> Self:
        if self.max_memory is not None:
            if self.device_map not in ("auto", "balanced"):
                raise ValueError(
                    f"max_memory shares out a model, but device_map puts it on {self.device_map!r};"
                    " set device_map to 'auto' or 'balanced', or leave max_memory out"
                )
            if unknown := [n for n in self.max_memory if not re.fullmatch(r"cpu|cuda:\d+", n)]:
                raise ValueError(
                    f"max_memory names {unknown[0]!r}; devices are called 'cpu' and 'cuda:N'"
                )
        if self.pinned and self.keep_alive != -1:
            raise ValueError("pinned keeps the model for ever; keep_alive does not go with it")
        if self.replicas > 1 and (self.device_map != "auto" or self.max_memory is not None):
            raise ValueError(
                "replicas puts one whole copy on each of several accelerators; it goes with"
                " device_map 'auto' and without max_memory"
            )
        return self

    @model_validator(mode="after")
    def _names_fit_in_a_url(self) -> Self:
        for name in self.names:
            if len(name) > MOST_NAME_CHARACTERS:
                raise ValueError(
                    f"name {name[:40]!r}... has {len(name)} characters; it may have"
                    f" {MOST_NAME_CHARACTERS}"
                )
            if not name or name != name.strip("/ ") or any(c.isspace() or c in "?#%" for c in name):
                raise ValueError(
                    f"name {name!r} cannot stand in a URL: it needs at least one character, and"
                    " none of white space, '?', '#', '%' or a slash at either end"
                )
            if name.count("/") > 1:
                raise ValueError(f"name {name!r} has more than one slash; set a shorter name")
            owner, slash, _ = name.partition("/")
            if slash and owner in OWN_PATHS:
                raise ValueError(
                    f"name {name!r} would stand in the way of the server's own paths under"
                    f" /{owner}; set another name"
                )
        return self


def decode_items(value: object) -> object:
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
