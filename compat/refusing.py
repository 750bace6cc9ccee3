# SPDX-License-Identifier: Apache-2.0
"""Headers that refusals have in each dialect."""

from __future__ import annotations

import math

from appliance.errors import ApplianceError, Unauthenticated

__all__ = ["refusal_headers"]


def refusal_headers(error: ApplianceError) -> dict[str, str]:
    """Headers that tell what to do: which key to send, how long to wait."""
    headers = {}
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
        headers["retry-after-ms"] = str(math.ceil(error.retry_after * 1000))
    return headers
