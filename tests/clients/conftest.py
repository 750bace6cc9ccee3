# SPDX-License-Identifier: Apache-2.0
"""What client libraries need to work without a network."""

from __future__ import annotations

import os

import pytest

from compat.conformance import quiet_environment


@pytest.fixture(scope="session")
def client_environment() -> dict[str, str]:
    """Variables for a process that runs client libraries: no call leaves this machine."""
    with quiet_environment():
        return dict(os.environ)
