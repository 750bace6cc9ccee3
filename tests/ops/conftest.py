# SPDX-License-Identifier: Apache-2.0
"""Scripts are not installed: they are imported from where they lie."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
