# SPDX-License-Identifier: Apache-2.0
"""Whether the clients that people use get along with a server of embeddings.

They are those of OpenAI's API, and of TEI's, Ollama's and Cohere's where the server speaks it. It
may be any server, told by its base URL; nothing of ours is needed to run it or to test it::

    python -m compat.conformance --base-url http://127.0.0.1:8080/v1

A case is a plain function in a module of :mod:`compat.conformance.clients`. Client libraries are
imported when their first case runs, so that listing cases is quick and needs none of them.
"""

from __future__ import annotations

from compat.conformance.environment import quiet_environment
from compat.conformance.registry import Case, Group
from compat.conformance.runner import Outcome, Result, run_case
from compat.conformance.selection import select_cases
from compat.conformance.target import Target

__all__ = [
    "Case",
    "Group",
    "Outcome",
    "Result",
    "Target",
    "quiet_environment",
    "run_case",
    "select_cases",
]
