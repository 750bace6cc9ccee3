# SPDX-License-Identifier: Apache-2.0
"""The row Overview."""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from grafana_lib.expressions import (
    ANSWERED,
    ASKED,
    HERE,
    OF_MODEL,
    level,
    percentiles,
    quantile,
    rate,
)
from grafana_lib.panels import Panel, lines, number


def overview() -> list[Panel]:
    """Whether all is well, at a glance."""
    requests = rate("http_server_request_duration_seconds_count", ASKED)
    failed = rate(
        "http_server_request_duration_seconds_count",
        f'{ASKED}, http_response_status_code=~"5.."',
    )
    tokens = rate("appliance_batch_tokens_sum", OF_MODEL)
    seconds = "gen_ai_server_request_duration_seconds"
    ready = f'appliance_model_state{{{OF_MODEL}, state!~"failed|loading"}} == 1'
    broken = level("appliance_model_state", f'{OF_MODEL}, state="failed"')
    errors = f"({failed} or vector(0)) / ({requests} > 0)"
    return [
        number(
            "Servers that answer",
            "Of those that Prometheus knows. The alert EmbeddingsServerDown watches this.",
            f"sum(up{{{HERE}}}) / count(up{{{HERE}}})",
            units.PercentUnit,
            [(None, "red"), (1, "green")],
        ),
        number(
            "Models that can answer",
            "Unloaded and parked ones among them: they come back when they are asked for.",
            f"count({ready}) or vector(0)",
            units.Short,
            [(None, "red"), (1, "green")],
        ),
        number(
            "Models that failed",
            "Requests for them are answered 503. /api/status has the reason.",
            broken,
            units.Short,
            [(None, "green"), (1, "red")],
        ),
        number(
            "Requests",
            "Requests for embeddings, refused ones too.",
            requests,
            units.RequestsPerSecond,
            [(None, "blue")],
        ),
        number(
            "Errors",
            "Share of the requests for embeddings that are answered with 500 or more.",
            errors,
            units.PercentUnit,
            [(None, "green"), (0.005, "yellow"), (0.02, "red")],
        ),
        number(
            "Tokens a second",
            "Tokens that were computed, special tokens among them.",
            tokens,
            units.Short,
            [(None, "blue")],
        ),
        lines(
            "Requests by status",
            "Requests for embeddings. 429: refused, see Refusals. 499: the client left.",
            {
                "{{http_response_status_code}}": rate(
                    "http_server_request_duration_seconds_count", ASKED, "http_response_status_code"
                )
            },
            units.RequestsPerSecond,
            stacked=True,
        ),
        lines(
            "Tokens a second by model",
            "Tokens that were computed, special tokens among them.",
            {"{{model}}": rate("appliance_batch_tokens_sum", OF_MODEL, "model")},
            units.Short,
            stacked=True,
        ),
        lines(
            "Latency",
            "From the engine's door to the answer's last byte, of requests that were answered. The"
            " line is the bound of the alert EmbeddingsSlow, for p99.",
            percentiles(seconds, ANSWERED),
            units.Seconds,
            steps=[(None, "green"), (5, "red")],
        ),
        lines(
            "p99 by model",
            "Models in turns, long texts and a full queue show here first.",
            {
                "{{gen_ai_request_model}}": quantile(
                    0.99, seconds, ANSWERED, "le, gen_ai_request_model"
                )
            },
            units.Seconds,
            width=12,
        ),
        lines(
            "Errors by kind",
            "Requests for embeddings that were refused or failed, by the error's name.",
            {
                "{{error_type}}": rate(
                    f"{seconds}_count",
                    f'{HERE}, gen_ai_request_model=~"$model", error_type!=""',
                    "error_type",
                )
            },
            units.RequestsPerSecond,
            width=12,
            stacked=True,
        ),
    ]
