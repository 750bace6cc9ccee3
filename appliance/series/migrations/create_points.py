# SPDX-License-Identifier: Apache-2.0
"""Make the table of points."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make it."""
    op.create_table(
        "series_points",
        sa.Column("step", sa.Integer, primary_key=True),
        sa.Column("begins", sa.BigInteger, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("series_points")
