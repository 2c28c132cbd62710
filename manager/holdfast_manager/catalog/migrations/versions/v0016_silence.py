"""Sessions of other hosts are given up by silence, not by a clock's word."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("sessions") as sessions:
        sessions.drop_column("alive_until")
        sessions.add_column(sa.Column("patience_s", sa.Double(), nullable=True))
        sessions.add_column(sa.Column("doubts", sa.JSON(), nullable=True))
