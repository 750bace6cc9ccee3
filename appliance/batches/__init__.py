# SPDX-License-Identifier: Apache-2.0
"""Files of requests that are worked off behind the live ones, and the files that come of them."""
