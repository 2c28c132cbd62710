"""When anybody looked after the leases of slots last: a clock that leaps must not end them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("slot_rounds") as slot_rounds:
        slot_rounds.add_column(sa.Column("touched", sa.Double(), nullable=True))
