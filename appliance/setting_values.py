# SPDX-License-Identifier: Apache-2.0
"""What single settings may hold: types that check what is given."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr

from appliance.published import check_route

__all__ = ["CollectorUrl", "DatabaseUrl", "Origin", "QueueName", "Route"]

_POSTGRESQL = re.compile(r"postgres(ql)?(\+psycopg)?://")
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/?#\s*]+", re.IGNORECASE)
_COLLECTOR = re.compile(r"https?://[^/?#\s@]+(/[^?#\s@]*)?", re.IGNORECASE)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", re.IGNORECASE | re.ASCII)


def _check_collector(url: str) -> str:
    # A password would show in exports and error messages: OTEL_EXPORTER_OTLP_HEADERS is for it.
    if not _COLLECTOR.fullmatch(url):
        raise ValueError(
            "it must be a URL such as http://collector:4318, with no user or password in it"
        )
    return url


def _check_database(url: SecretStr) -> SecretStr:
    # It may hold a password, so that no message repeats any of it.
    if not _POSTGRESQL.match(url.get_secret_value()):
        raise ValueError("it must begin with postgresql://")
    try:
        _ = urlsplit(url.get_secret_value()).port
    except ValueError:
        raise ValueError("its host or port is malformed") from None
    return url


def _check_origin(origin: str) -> str:
    if not _ORIGIN.fullmatch(origin):
        raise ValueError(
            f"{origin!r} is no origin; one is written as https://app.example.com, with no path, or"
            " is *"
        )
    return origin


def _check_queue(name: str) -> str:
    if not _LABEL.fullmatch(name):
        raise ValueError(
            "it must be what Kubernetes takes for a label: 63 letters, digits, '-', '_' and '.' at"
            " most, with a letter or a digit at either end"
        )
    return name


CollectorUrl = Annotated[str, AfterValidator(_check_collector)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_check_database)]
Origin = Annotated[str, AfterValidator(_check_origin)]
QueueName = Annotated[str, AfterValidator(_check_queue)]
Route = Annotated[str, AfterValidator(check_route)]
