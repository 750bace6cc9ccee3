# SPDX-License-Identifier: Apache-2.0
"""The variables and flags that text-embeddings-inference (TEI) is started by, and what they set.

Each has one row in :data:`TEI_VARIABLES`. How they are read is in :mod:`appliance.tei_start`.

Names and meanings: ``router/src/main.rs`` of https://github.com/huggingface/text-embeddings-inference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from appliance.settings import Settings

__all__ = ["MODEL_ID", "TEI_VARIABLES", "TeiVariable", "describe_tei_variables", "tei_variable"]

MODEL_ID = "MODEL_ID"
PROMPT_NAME = "default_prompt"
"""What a prompt is called here that has no name there."""


@dataclass(frozen=True, slots=True)
class TeiVariable:
    """One of TEI's variables, and the flag of the same name.

    Attributes:
        name: The variable.
        setting: Path of what it sets, such as ``models.0.dtype``; ``None``: it means nothing here.
        remark: What differs; where it means nothing, why.
        convert: Makes the setting's value. What is wrong with that is found when all is checked.
        also: Further settings that go with it, by path.
        is_switch: Whether the flag may stand without a value.
        is_list: Whether the flag may be repeated.
        has_flag: Whether there is a flag.
    """

    name: str
    setting: str | None = None
    remark: str = ""
    convert: Callable[[Any], object] = lambda value: value
    also: Mapping[str, str] = field(default_factory=dict)
    is_switch: bool = False
    is_list: bool = False
    has_flag: bool = True

    @property
    def flag(self) -> str:
        """As it is written on a command line."""
        return "--" + self.name.lower().replace("_", "-")

    @property
    def has_own_flag(self) -> bool:
        """Whether the flag is one of this server's settings anyhow."""
        return self.has_flag and self.name.lower() in Settings.model_fields


TEI_VARIABLES: tuple[TeiVariable, ...] = (
    TeiVariable(MODEL_ID, "models.0.model", "Needed for any of the others to count."),
    TeiVariable("REVISION", "models.0.revision"),
    TeiVariable("SERVED_MODEL_NAME", "models.0.name"),
    TeiVariable("DTYPE", "models.0.dtype"),
    TeiVariable(
        "POOLING",
        "models.0.pooling",
        "`last-token` is `last_token`.",
        convert=lambda value: value.replace("-", "_"),
    ),
    TeiVariable("AUTO_TRUNCATE", "models.0.truncate", "On unless set.", is_switch=True),
    TeiVariable(
        "DEFAULT_PROMPT",
        "models.0.prompts",
        f"It becomes the prompt `{PROMPT_NAME}`. Not together with the next.",
        convert=lambda value: {PROMPT_NAME: value},
        also={"models.0.default_prompt_name": PROMPT_NAME},
    ),
    TeiVariable("DEFAULT_PROMPT_NAME", "models.0.default_prompt_name"),
    TeiVariable("TOKENIZATION_WORKERS", "models.0.tokenization_workers"),
    TeiVariable(
        "MAX_CONCURRENT_REQUESTS",
        "models.0.max_concurrent_requests",
        "Counts requests; TEI counts each of their inputs.",
    ),
    TeiVariable("MAX_BATCH_TOKENS", "models.0.max_batch_tokens"),
    TeiVariable("MAX_BATCH_REQUESTS", "models.0.max_batch_requests"),
    TeiVariable("MAX_CLIENT_BATCH_SIZE", "models.0.max_client_batch_size", "2048 unless set."),
    TeiVariable("PAYLOAD_LIMIT", "models.0.payload_limit"),
    TeiVariable("HF_API_TOKEN", "hf_token"),
    TeiVariable("HF_TOKEN", "hf_token"),
    TeiVariable("HUGGINGFACE_HUB_CACHE", "hub_cache"),
    TeiVariable(
        "HOSTNAME",
        "host",
        "`0.0.0.0` unless set. The variable counts only if it is an IP address, since containers"
        " set it to their own name.",
    ),
    TeiVariable("PORT", "port", "3000 unless set; `-p` works too."),
    TeiVariable(
        "API_KEY",
        "api_keys",
        "Unset: no key is asked for (`auth` is `none`), unless `auth`, `api_keys` or"
        " `database_url` is set, or `data_dir` holds tokens.",
        convert=lambda value: [value],
    ),
    TeiVariable(
        "CORS_ALLOW_ORIGIN", "cors_allow_origins", "Unset: none; TEI allows all, `*`.", is_list=True
    ),
    TeiVariable("JSON_OUTPUT", "log_json", is_switch=True),
    TeiVariable(
        "OTLP_ENDPOINT",
        "otlp_endpoint",
        "By gRPC, unless `OTEL_EXPORTER_OTLP_PROTOCOL` says otherwise.",
        also={"environment.OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
    ),
    TeiVariable("OTLP_SERVICE_NAME", "name"),
    TeiVariable("PROMETHEUS_PORT", None, "metrics are at `/metrics` of the one port"),
    TeiVariable("UDS_PATH", None, "models run in the server's own process"),
    TeiVariable(
        "DISABLE_SPANS",
        None,
        "log lines have no spans; without a collector none are made",
        is_switch=True,
    ),
    TeiVariable("DENSE_PATH", None, "the model's own `modules.json` says which layers it has"),
    TeiVariable(
        "USE_FLASH_ATTENTION", None, "the fastest attention that is exact is chosen", has_flag=False
    ),
    TeiVariable("TASK", None, "what a model is for is read from its own files", has_flag=False),
    TeiVariable(
        "AIP_HTTP_PORT", None, "/vertex is served at the server's own port and path", has_flag=False
    ),
    TeiVariable(
        "AIP_PREDICT_ROUTE",
        None,
        "/vertex is served at the server's own port and path",
        has_flag=False,
    ),
    TeiVariable(
        "AIP_HEALTH_ROUTE",
        None,
        "/vertex is served at the server's own port and path",
        has_flag=False,
    ),
)
_BY_NAME = {variable.name: variable for variable in TEI_VARIABLES}


def tei_variable(written: str) -> TeiVariable:
    """The row of a variable or flag, as it was written."""
    return _BY_NAME[written.removeprefix("--").replace("-", "_").upper()]


def describe_tei_variables() -> str:
    """Markdown tables of all variables, as they stand in the README."""
    lines = ["| Variable | Flag | Sets | Remarks |", "| --- | --- | --- | --- |"]
    for variable in TEI_VARIABLES:
        if variable.setting is not None:
            cells = f"`{variable.name}` | `{variable.flag}` | `{variable.setting}`"
            lines.append(f"| {cells} | {variable.remark} |")
    lines += ["", "These are accepted, and named in the log:", ""]
    lines += ["| Variable | Means nothing here, since |", "| --- | --- |"]
    lines += [
        f"| `{each.name}` | {each.remark} |" for each in TEI_VARIABLES if each.setting is None
    ]
    return "\n".join(lines) + "\n"
