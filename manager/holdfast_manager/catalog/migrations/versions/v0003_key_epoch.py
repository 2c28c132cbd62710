"""Keys: the highest key epoch that is known of each repository."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("repositories") as repositories:
        repositories.add_column(sa.Column("epoch", sa.Integer(), nullable=False, server_default=sa.text("1")))
