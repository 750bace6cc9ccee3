# SPDX-License-Identifier: Apache-2.0
"""How the tables came to be, one step a file; alembic runs what a database lacks."""
