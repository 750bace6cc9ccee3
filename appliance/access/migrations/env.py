# SPDX-License-Identifier: Apache-2.0
"""Run by alembic, within the transaction that the store has opened."""

from __future__ import annotations

from alembic import context

from appliance.access.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # Others may keep tables in the same database.
    version_table="embeddings_appliance_version",
)
with context.begin_transaction():
    context.run_migrations()
