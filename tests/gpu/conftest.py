# SPDX-License-Identifier: Apache-2.0
"""Tests for machines with a CUDA device; elsewhere all are skipped."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _has_a_device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
