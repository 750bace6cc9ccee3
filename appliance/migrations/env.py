# SPDX-License-Identifier: Apache-2.0
"""Run by alembic, within the transaction that :mod:`appliance.database` has opened."""

from __future__ import annotations

from alembic import context

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    target_metadata=attributes["metadata"],
    # Others may keep tables in the same database.
    version_table=attributes["version_table"],
)
with context.begin_transaction():
    context.run_migrations()
