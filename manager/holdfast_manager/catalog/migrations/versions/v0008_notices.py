"""Notices: who is to be told that a session has ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "notices",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("session", _NUMBER, nullable=False),
        sa.Column("notifier", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("due", sa.Double(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("delivered", sa.Double(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_notices"),
        sa.ForeignKeyConstraint(["session"], ["sessions.id"], name="fk_notices_session", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_notices_due", "notices", ["due"])
    op.create_index("uq_notices_session_notifier", "notices", ["session", "notifier"], unique=True)
