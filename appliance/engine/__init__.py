# SPDX-License-Identifier: Apache-2.0
"""Text in, vectors out. Nothing in here knows of HTTP."""
