"""Sessions of other hosts are given up by silence, not by a clock's word."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # not in a batch, which makes SQLite's table anew: a number that was given once must not be given again
    op.drop_column("sessions", "alive_until")
    op.add_column("sessions", sa.Column("patience_s", sa.Double(), nullable=True))
    op.add_column("sessions", sa.Column("doubts", sa.JSON(), nullable=True))
