"""Traffic: rules, preferred networks, limits of repositories, and the ledger of what transfers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    with op.batch_alter_table("repositories") as repositories:
        repositories.add_column(sa.Column("read_limit_bytes_per_s", sa.BigInteger(), nullable=True))
        repositories.add_column(sa.Column("write_limit_bytes_per_s", sa.BigInteger(), nullable=True))
    op.create_table(
        "traffic_rules",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("source", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("target", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("one_way", sa.Boolean(), nullable=False),
        sa.Column("bandwidth", sa.BigInteger(), nullable=True),
        sa.Column("streams", sa.Integer(), nullable=True),
        sa.Column("windows", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("time_zone", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_traffic_rules"),
    )
    op.create_table(
        "preferred_networks",
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("network", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("place", name="pk_preferred_networks"),
    )
    op.create_table(
        "transfers",
        sa.Column("id", _Number, autoincrement=True, nullable=False),
        sa.Column("session", _Number, nullable=False),
        sa.Column("task", _Number, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("reads", sa.Text(), nullable=False),
        sa.Column("writes", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("own_limit", sa.BigInteger(), nullable=True),
        sa.Column("rate_bytes_per_s", sa.BigInteger(), nullable=True),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_transfers"),
        sa.ForeignKeyConstraint(["session"], ["sessions.id"], name="fk_transfers_session", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("uq_transfers_session_task", "transfers", ["session", "task"], unique=True)
