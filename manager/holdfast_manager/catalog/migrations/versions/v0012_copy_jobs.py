"""Jobs that copy restore points: without a server, with an origin, started by the arrival of points."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.alter_column("server", existing_type=sa.Text(), nullable=True)
        jobs.add_column(sa.Column("origin", sa.Text(), nullable=True))
        jobs.create_foreign_key("fk_jobs_origin", "repositories", ["origin"], ["name"])
        jobs.create_index("ix_jobs_origin", ["origin"])
    with op.batch_alter_table("repositories") as repositories:
        repositories.add_column(sa.Column("arrivals", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    with op.batch_alter_table("points") as points:
        points.add_column(sa.Column("arrival", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
        points.create_index("ix_points_repository_arrival", ["repository", "arrival"])
    with op.batch_alter_table("job_runs") as job_runs:
        job_runs.add_column(sa.Column("arrived", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.execute("UPDATE points SET arrival = 1")
    op.execute("UPDATE repositories SET arrivals = 1")
