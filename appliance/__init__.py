# SPDX-License-Identifier: Apache-2.0
"""A self-hosted, OpenAI-compatible embeddings server."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
