# SPDX-License-Identifier: Apache-2.0
"""What transformers says when it may not run a model's own code, in the words of the settings."""

from __future__ import annotations

__all__ = ["told"]


def told(error: Exception) -> str:
    """Why something of a model could not be loaded.

    Args:
        error: What transformers raised.
    """
    # It names its own argument, whose name the setting has too; there is no class for this error.
    if "trust_remote_code" not in str(error):
        return str(error)
    return (
        "it comes with Python code of its own, which runs only where the setting trust_remote_code"
        " is true; set that for authors you trust"
    )
