# SPDX-License-Identifier: Apache-2.0
"""The row Queue and batches."""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from grafana_lib.expressions import HERE, OF_MODEL, level, mean, percentiles, rate
from grafana_lib.panels import Panel, buckets, lines


def queue_and_batches() -> list[Panel]:
    """What waits, why it is refused, and how it is put together."""
    waited, took = "appliance_queue_duration_seconds", "appliance_batch_duration_seconds"
    return [
        lines(
            "Tokens that wait",
            "Tokens in the queue of each model. Over max_queue_tokens (a million unless set) new"
            " requests are refused; the line is the alert's, at four fifths of that.",
            {"{{model}}": level("appliance_queue_tokens", OF_MODEL, "model")},
            units.Short,
            steps=[(None, "green"), (800_000, "red")],
        ),
        lines(
            "Requests at work and waiting",
            "At work: all that were taken in. Waiting: those of which texts wait for a batch.",
            {
                "at work": level("appliance_model_requests", OF_MODEL),
                "waiting": level("appliance_queue_requests", OF_MODEL),
            },
            units.Short,
        ),
        lines(
            "Refusals",
            "Requests refused, by the bound: quotas are of a key, token_store is its database, the"
            " others say that there is too much to do.",
            {"{{reason}}": rate("appliance_requests_refused_total", HERE, "reason") + " > 0"},
            units.RequestsPerSecond,
            stacked=True,
        ),
        lines(
            "Time in queue",
            "How long requests waited for their first batch. They are refused after"
            " max_queue_seconds, 30 unless set.",
            percentiles(waited),
            units.Seconds,
        ),
        lines(
            "Time of a batch",
            "From taking a batch to answering its requests.",
            percentiles(took),
            units.Seconds,
        ),
        lines(
            "Where time goes",
            "Means of a request's stages; a large one may take several batches.",
            {
                "tokenise": mean("appliance_tokenize_duration_seconds"),
                "queue": mean(waited),
                "batch": mean(took),
            },
            units.Seconds,
            stacked=True,
        ),
        buckets(
            "Tokens of a batch",
            "Batches fill while the device is busy: small ones mean that it has time to spare.",
            "appliance_batch_tokens",
            units.Short,
        ),
        buckets(
            "Texts of a batch",
            "Many texts and few tokens: short texts, packed.",
            "appliance_batch_texts",
            units.Short,
        ),
        lines(
            "Batches and texts computed twice",
            "Split: a batch that did not fit in memory, computed in parts. Recomputed: texts whose"
            " numbers overflowed in half precision, computed once more in float32.",
            {
                "{{model}} split": rate("appliance_batches_split_total", OF_MODEL, "model"),
                "{{model}} recomputed": rate("appliance_texts_recomputed_total", OF_MODEL, "model"),
            },
            units.Short,
        ),
    ]
