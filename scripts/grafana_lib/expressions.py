# SPDX-License-Identifier: Apache-2.0
"""Questions to Prometheus, in PromQL."""

from __future__ import annotations

HERE = 'job=~"$job", instance=~"$instance"'
"""The instances that are chosen at the top of the page."""
OF_MODEL = f'{HERE}, model=~"$model"'
ASKED = f'{HERE}, http_route=~".*/v1/embeddings"'
"""Requests for embeddings, under a model's own name too."""
ANSWERED = f'{HERE}, gen_ai_request_model=~"$model", error_type=""'


def rate(metric: str, labels: str = HERE, by: str = "") -> str:
    """Increase a second of a counter, summed."""
    return f"sum by ({by}) (rate({metric}{{{labels}}}[$__rate_interval]))"


def level(metric: str, labels: str = HERE, by: str = "") -> str:
    """Values of a gauge, summed."""
    return f"sum by ({by}) ({metric}{{{labels}}})"


def quantile(share: float, histogram: str, labels: str = OF_MODEL, by: str = "le") -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({share}, {rate(histogram + '_bucket', labels, by)})"


def percentiles(histogram: str, labels: str = OF_MODEL) -> dict[str, str]:
    """The three quantiles that say most, by legend."""
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {legend: quantile(share, histogram, labels) for legend, share in shares.items()}


def mean(histogram: str, labels: str = OF_MODEL) -> str:
    """The mean of a histogram."""
    return f"{rate(histogram + '_sum', labels)} / {rate(histogram + '_count', labels)}"
