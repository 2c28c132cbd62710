"""The service: what it remembers of each job, until when sessions are known to live, and more of who waits for what."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "job_runs",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("handled", sa.Double(), nullable=False),
        sa.Column("followed", _NUMBER, nullable=False),
        sa.Column("session", _NUMBER, nullable=True),
        sa.Column("failed", _NUMBER, nullable=True),
        sa.Column("retry_at", sa.Double(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_job_runs"),
        sa.ForeignKeyConstraint(["name"], ["jobs.name"], name="fk_job_runs_name", ondelete="CASCADE"),
    )
    op.create_table(
        "services",
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("process", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("place", name="pk_services"),
    )
    with op.batch_alter_table("sessions") as sessions:
        sessions.add_column(sa.Column("alive_until", sa.Double(), nullable=True))
    with op.batch_alter_table("slot_requests") as slot_requests:
        slot_requests.add_column(sa.Column("job", sa.Text(), nullable=False, server_default=sa.text("''")))
        slot_requests.add_column(sa.Column("weight", sa.Integer(), nullable=False, server_default=sa.text("1")))
        slot_requests.add_column(sa.Column("reason", sa.Text(), nullable=False, server_default=sa.text("''")))
        slot_requests.add_column(sa.Column("ahead", sa.Integer(), nullable=False, server_default=sa.text("0")))
    op.create_table(
        "slot_rounds",
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("done", sa.Double(), nullable=False),
        sa.Column("waiting", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("wanted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("place", name="pk_slot_rounds"),
    )
    with op.batch_alter_table("servers") as servers:
        servers.add_column(sa.Column("limits", sa.JSON(none_as_null=True), nullable=True))
