"""Restore points: why one is in doubt whatever a verification finds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("points") as points:
        points.add_column(sa.Column("doubt", sa.Text(), nullable=False, server_default=sa.text("''")))
