# SPDX-License-Identifier: Apache-2.0
"""Whole files of texts, without a server: ``appliance embed``."""
