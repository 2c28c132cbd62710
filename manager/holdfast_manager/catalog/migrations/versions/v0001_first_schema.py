"""The first schema: configuration, history of sessions, points, obligations, slots."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    _configuration()
    _history()
    _points_and_ledgers()


def _configuration() -> None:
    op.create_table(
        "servers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("plugin", sa.Text(), nullable=False),
        sa.Column("options", _JSON, nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_servers")),
    )

    op.create_table(
        "agents",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("public_key", sa.Text(), nullable=False),
        sa.Column("roles", _JSON, nullable=False),
        sa.Column("proxy_slots", sa.Integer(), nullable=False),
        sa.Column("repository_slots", sa.Integer(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_agents")),
    )

    op.create_table(
        "repositories",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("repository_id", sa.Text(), nullable=False),
        sa.Column("encrypted", sa.Boolean(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("master_key", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["agent"], ["agents.name"], name=op.f("fk_repositories_agent")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_repositories")),
    )
    op.create_index(op.f("ix_repositories_agent"), "repositories", ["agent"])

    op.create_table(
        "jobs",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("spec", _JSON, nullable=False),
        sa.ForeignKeyConstraint(["repository"], ["repositories.name"], name=op.f("fk_jobs_repository")),
        sa.ForeignKeyConstraint(["server"], ["servers.name"], name=op.f("fk_jobs_server")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_jobs")),
    )
    op.create_index(op.f("ix_jobs_repository"), "jobs", ["repository"])
    op.create_index(op.f("ix_jobs_server"), "jobs", ["server"])


def _history() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("started", sa.Double(), nullable=True),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.Column("process", _JSON, nullable=False),
        sa.Column("stop_requested", sa.Boolean(), nullable=False),
        sa.Column("error", _JSON, nullable=True),
        sa.Column("spec", _JSON, nullable=False),
        sa.Column("holds", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        sa.UniqueConstraint("holds", name=op.f("uq_sessions_holds")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_sessions_job_id"), "sessions", ["job", "id"])
    op.create_index(op.f("ix_sessions_kind_id"), "sessions", ["kind", "id"])
    op.create_index(op.f("ix_sessions_state_id"), "sessions", ["state", "id"])

    op.create_table(
        "tasks",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("session", _NUMBER, nullable=False),
        sa.Column("vm_id", sa.Text(), nullable=False),
        sa.Column("vm_name", sa.Text(), nullable=False),
        sa.Column("disk_id", sa.Text(), nullable=False),
        sa.Column("disk_name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("sid", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("counters", _JSON, nullable=False),
        sa.Column("queue_wait_s", sa.Double(), nullable=False),
        sa.Column("proxy", sa.Text(), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("error", _JSON, nullable=True),
        sa.ForeignKeyConstraint(["session"], ["sessions.id"], name=op.f("fk_tasks_session"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_tasks_session_id"), "tasks", ["session", "id"])

    op.create_table(
        "events",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("session", _NUMBER, nullable=False),
        sa.Column("task", _NUMBER, nullable=True),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=True),
        sa.Column("data", _JSON, nullable=False),
        sa.ForeignKeyConstraint(["session"], ["sessions.id"], name=op.f("fk_events_session"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_events_session_id"), "events", ["session", "id"])


def _points_and_ledgers() -> None:
    op.create_table(
        "points",
        sa.Column("sid", sa.Text(), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("vm_id", sa.Text(), nullable=False),
        sa.Column("vm_name", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("session", _NUMBER, nullable=True),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.Column("consistency", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["repository"], ["repositories.name"], name=op.f("fk_points_repository"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["session"], ["sessions.id"], name=op.f("fk_points_session"), ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("sid", name=op.f("pk_points")),
    )
    op.create_index(op.f("ix_points_created"), "points", ["created"])
    op.create_index(op.f("ix_points_job_created"), "points", ["job", "created"])
    op.create_index(
        op.f("ix_points_repository_server_vm_id_created"),
        "points",
        ["repository", "server", "vm_id", "created"],
    )
    op.create_index(op.f("ix_points_session"), "points", ["session"])
    op.create_index(op.f("ix_points_vm_name_created"), "points", ["vm_name", "created"])

    op.create_table(
        "obligations",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("session", _NUMBER, nullable=False),
        sa.Column("server", sa.Text(), nullable=False),
        sa.Column("plugin", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", _JSON, nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["server"], ["servers.name"], name=op.f("fk_obligations_server")),
        sa.ForeignKeyConstraint(["session"], ["sessions.id"], name=op.f("fk_obligations_session"), ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_obligations")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_obligations_server"), "obligations", ["server"])
    op.create_index(op.f("ix_obligations_session_id"), "obligations", ["session", "id"])

    op.create_table(
        "slot_requests",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("session", _NUMBER, nullable=False),
        sa.Column("task", _NUMBER, nullable=False),
        sa.Column("needs", _JSON, nullable=False),
        sa.Column("awaited", _JSON, nullable=False),
        sa.Column("granted", _JSON, nullable=True),
        sa.Column("requested", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session"], ["sessions.id"], name=op.f("fk_slot_requests_session"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_slot_requests")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_slot_requests_expires"), "slot_requests", ["expires"])
    op.create_index("uq_slot_requests_session_task", "slot_requests", ["session", "task"], unique=True)
