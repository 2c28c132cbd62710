"""Four eyes: requests for approval, and whether they are required."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "approvals",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("asker", sa.Text(), nullable=False),
        sa.Column("asker_local", sa.Boolean(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("targets", sa.JSON(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("asked", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.Column("decider", sa.Text(), nullable=False),
        sa.Column("decided", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_approvals"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_approvals_digest", "approvals", ["digest"])
    op.create_table(
        "four_eyes",
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("required_by", sa.Text(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("place", name="pk_four_eyes"),
    )
