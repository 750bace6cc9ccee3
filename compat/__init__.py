# SPDX-License-Identifier: Apache-2.0
"""The dialects that clients speak. Each calls the engine; none knows another."""
