# SPDX-License-Identifier: Apache-2.0
"""What client libraries need to work without a network."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def client_environment() -> dict[str, str]:
    """Variables for a process that runs client libraries: no call leaves this machine."""
    spec = find_spec("llama_index")
    assert spec is not None
    assert spec.submodule_search_locations
    folders = [
        Path(location, "core/_static/tiktoken_cache")
        for location in spec.submodule_search_locations
    ]
    return {
        **os.environ,
        "TIKTOKEN_CACHE_DIR": next(str(folder) for folder in folders if folder.is_dir()),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
