"""Users, their tokens, and the audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("roles", sa.JSON(), nullable=False),
        sa.Column("public_key", sa.Text(), nullable=True),
        sa.Column("password", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_users"),
    )
    op.create_index("uq_users_public_key", "users", ["public_key"], unique=True)
    op.create_table(
        "user_tokens",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_user_tokens"),
        sa.ForeignKeyConstraint(["user"], ["users.name"], name="fk_user_tokens_user", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_user_tokens_user", "user_tokens", ["user"])
    op.create_index("uq_user_tokens_digest", "user_tokens", ["digest"], unique=True)
    op.create_table(
        "audit",
        sa.Column("number", _NUMBER, autoincrement=False, nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("actor", "place", "action", "target", "outcome")),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("concerns", _NUMBER, nullable=False),
        sa.Column("seal", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit"),
    )
    op.create_index("ix_audit_concerns", "audit", ["concerns"])
    op.create_table(
        "audit_heads",
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("start", _NUMBER, nullable=False),
        sa.Column("start_seal", sa.LargeBinary(), nullable=False),
        sa.Column("last", _NUMBER, nullable=False),
        sa.Column("last_seal", sa.LargeBinary(), nullable=False),
        sa.Column("seal", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("place", name="pk_audit_heads"),
    )
