"""Groups of repositories: policy, members, and members that take no new points."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "repository_groups",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("free_floor", sa.BigInteger(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_repository_groups"),
    )
    with op.batch_alter_table("repositories") as repositories:
        repositories.add_column(sa.Column("sealed", sa.Boolean(), nullable=False, server_default=sa.false()))
        repositories.add_column(sa.Column("member_of", sa.Text(), nullable=True))
        repositories.create_foreign_key("fk_repositories_member_of", "repository_groups", ["member_of"], ["name"])
        repositories.create_index("ix_repositories_member_of", ["member_of"])
    # a job's repository may be a group now; the catalogue itself sees to it that there is one of that name
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_constraint("fk_jobs_repository", type_="foreignkey")
        jobs.drop_constraint("fk_jobs_origin", type_="foreignkey")
