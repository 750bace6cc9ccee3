# SPDX-License-Identifier: Apache-2.0
"""Who may use the instance, and how much: keys, quotas and the store of tokens."""
