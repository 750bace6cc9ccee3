# SPDX-License-Identifier: Apache-2.0
"""What scripts/grafana_dashboard.py is made of."""
