# SPDX-License-Identifier: Apache-2.0
"""Make the table of what tokens have left of their quotas."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make it."""
    op.create_table(
        "quotas",
        sa.Column(
            "token_id",
            sa.String(32),
            sa.ForeignKey("tokens.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("level", sa.Double, nullable=False),
        sa.Column("filled_at", sa.Double, nullable=False),
        sa.Column("lent", sa.Double, nullable=False),
        sa.Column("lent_until", sa.Double, nullable=False),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("quotas")
