# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance`` is the ``appliance`` command."""

from __future__ import annotations

import sys

from appliance.cli import main

sys.exit(main())
