"""Points are written down before they are committed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "pending_points",
        sa.Column("sid", sa.Text(), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("session", _NUMBER, nullable=True),
        sa.Column("point", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["repository"], ["repositories.name"], name="fk_pending_points_repository", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["session"], ["sessions.id"], name="fk_pending_points_session", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("sid", name="pk_pending_points"),
    )
    op.create_index("ix_pending_points_repository", "pending_points", ["repository"])
    op.create_index("ix_pending_points_session", "pending_points", ["session"])
