# SPDX-License-Identifier: Apache-2.0
"""What the instance did and took over the last day, for plots."""
