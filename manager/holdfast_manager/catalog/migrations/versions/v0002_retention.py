"""Retention: what the catalogue knows of a point's verification, protection and pruning."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("points") as points:
        points.add_column(sa.Column("verified", sa.Double(), nullable=True))
        points.add_column(sa.Column("held", sa.Boolean(), nullable=False, server_default=sa.false()))
        points.add_column(sa.Column("retained_until", sa.Double(), nullable=False, server_default=sa.text("0")))
        points.add_column(sa.Column("undo_until", sa.Double(), nullable=True))
