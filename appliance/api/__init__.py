# SPDX-License-Identifier: Apache-2.0
"""The appliance's own routes: its health and its management."""
