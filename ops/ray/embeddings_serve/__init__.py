# SPDX-License-Identifier: Apache-2.0
"""The server as an application of Ray Serve: a front that asks replicas of the whole server."""

import os

# Ray would tell its makers how it is used. Nothing here phones anybody, unless it is asked to.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
