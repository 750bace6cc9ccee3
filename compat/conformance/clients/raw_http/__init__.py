# SPDX-License-Identifier: Apache-2.0
"""Bare HTTP: what every client rests on."""

from __future__ import annotations

from compat.conformance.clients.raw_http import (
    auth,
    embeddings,
    errors,
    extensions,
    models,
    output_dtypes,
)

__all__ = ["cases"]

cases = [
    *embeddings.cases,
    *models.cases,
    *errors.cases,
    *auth.cases,
    *extensions.cases,
    *output_dtypes.cases,
]
