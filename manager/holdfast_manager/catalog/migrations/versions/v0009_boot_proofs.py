"""Restore points: how their last boot proof ended, and when one last came up."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("points") as points:
        points.add_column(sa.Column("boot", sa.JSON(none_as_null=True), nullable=True))
        points.add_column(sa.Column("booted", sa.Double(), nullable=True))
