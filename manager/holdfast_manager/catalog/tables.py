"""The tables of the catalogue, in SQL that SQLite and PostgreSQL both understand.

A column that holds a field of a value in ``values`` has the field's name, so that rows and values convert without
being spelled out. Times are Unix seconds. The tables change by a migration in ``migrations/versions`` only; a test
compares both.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    }
)

# SQLite numbers rows by itself only when the key's type is exactly INTEGER (64 bits there)
_Number = BigInteger().with_variant(Integer, "sqlite")
_Json = JSON(none_as_null=True)


def _number() -> Column[int]:
    return Column("id", _Number, primary_key=True, autoincrement=True)


def _of_session(on_delete: str) -> Column[int]:
    return Column("session", _Number, ForeignKey("sessions.id", ondelete=on_delete), nullable=False)


servers = Table(
    "servers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("plugin", Text, nullable=False),
    Column("options", _Json, nullable=False),
    Column("secret", LargeBinary),
    Column("limits", _Json),
)

agents = Table(
    "agents",
    metadata,
    Column("name", Text, primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("public_key", Text, nullable=False),
    Column("roles", _Json, nullable=False),
    Column("proxy_slots", Integer, nullable=False),
    Column("repository_slots", Integer, nullable=False),
    Column("enabled", Boolean, nullable=False),
)

repositories = Table(
    "repositories",
    metadata,
    Column("name", Text, primary_key=True),
    Column("agent", Text, ForeignKey("agents.name"), nullable=False, index=True),
    Column("path", Text, nullable=False),
    Column("repository_id", Text, nullable=False),
    Column("encrypted", Boolean, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("master_key", LargeBinary),
    Column("epoch", Integer, nullable=False, server_default=text("1")),
    Column("read_limit_bytes_per_s", BigInteger),
    Column("write_limit_bytes_per_s", BigInteger),
    Column("arrivals", BigInteger, nullable=False, server_default=text("0")),  # the number of its newest point
    Column("sealed", Boolean, nullable=False, server_default=false()),
    Column("member_of", Text, ForeignKey("repository_groups.name"), index=True),
)

# Names of groups and repositories are different: what a job names as its repository may be either
repository_groups = Table(
    "repository_groups",
    metadata,
    Column("name", Text, primary_key=True),
    Column("policy", Text, nullable=False),
    Column("free_floor", BigInteger, nullable=False),
    Column("description", Text, nullable=False),
)

traffic_rules = Table(
    "traffic_rules",
    metadata,
    Column("name", Text, primary_key=True),
    Column("source", _Json, nullable=False),
    Column("target", _Json, nullable=False),
    Column("one_way", Boolean, nullable=False),
    Column("bandwidth", BigInteger),
    Column("streams", Integer),
    Column("windows", _Json, nullable=False),
    Column("time_zone", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("description", Text, nullable=False),
)

preferred_networks = Table(
    "preferred_networks",
    metadata,
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("network", Text, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("name", Text, primary_key=True),
    Column("server", Text, ForeignKey("servers.name"), index=True),
    Column("repository", Text, nullable=False, index=True),
    Column("origin", Text, index=True),
    Column("spec", _Json, nullable=False),
)

# ``holds`` is unique while a session runs and NULL afterwards: one running session per job, whatever the database
sessions = Table(
    "sessions",
    metadata,
    _number(),
    Column("kind", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("result", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("started", Double),
    Column("ended", Double),
    Column("process", _Json, nullable=False),
    Column("stop_requested", Boolean, nullable=False),
    Column("error", _Json),
    Column("spec", _Json, nullable=False),
    Column("holds", Text, unique=True),
    Column("patience_s", Double),
    Column("doubts", _Json),
    Index(None, "job", "id"),
    Index(None, "kind", "id"),
    Index(None, "state", "id"),
    sqlite_autoincrement=True,  # a session's number is never used again, even when old sessions are pruned
)

tasks = Table(
    "tasks",
    metadata,
    _number(),
    _of_session("CASCADE"),
    Column("vm_id", Text, nullable=False),
    Column("vm_name", Text, nullable=False),
    Column("disk_id", Text, nullable=False),
    Column("disk_name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("sid", Text),
    Column("attempt", Integer, nullable=False),
    Column("mode", Text),
    Column("reason", Text, nullable=False),
    Column("counters", _Json, nullable=False),
    Column("queue_wait_s", Double, nullable=False),
    Column("proxy", Text, nullable=False),
    Column("repository", Text, nullable=False),
    Column("error", _Json),
    Index(None, "session", "id"),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    _number(),
    _of_session("CASCADE"),
    Column("task", _Number),
    Column("time", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("step", Text),
    Column("data", _Json, nullable=False),
    Index(None, "session", "id"),
    sqlite_autoincrement=True,  # followers remember the last number that they saw
)

points = Table(
    "points",
    metadata,
    Column("sid", Text, primary_key=True),
    Column("repository", Text, ForeignKey("repositories.name", ondelete="CASCADE"), nullable=False),
    Column("server", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("vm_id", Text, nullable=False),
    Column("vm_name", Text, nullable=False),
    Column("created", Double, nullable=False, index=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("session", _Number, ForeignKey("sessions.id", ondelete="SET NULL"), index=True),
    Column("stored_bytes", BigInteger, nullable=False),
    Column("consistency", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("verified", Double),
    Column("held", Boolean, nullable=False, server_default=false()),
    Column("retained_until", Double, nullable=False, server_default=text("0")),
    Column("undo_until", Double),
    Column("origin", _Json),
    Column("doubt", Text, nullable=False, server_default=text("''")),
    Column("boot", _Json),
    Column("booted", Double),
    Column("arrival", BigInteger, nullable=False, server_default=text("0")),  # which of its repository's arrivals
    Index(None, "repository", "server", "vm_id", "created"),
    Index(None, "repository", "arrival"),
    Index(None, "job", "created"),
    Index(None, "vm_name", "created"),
)

# Points that are being committed: their rows, written down before their repositories are asked
pending_points = Table(
    "pending_points",
    metadata,
    Column("sid", Text, primary_key=True),
    Column("repository", Text, ForeignKey("repositories.name", ondelete="CASCADE"), nullable=False, index=True),
    Column("session", _Number, ForeignKey("sessions.id", ondelete="SET NULL"), index=True),
    Column("point", _Json, nullable=False),
)

obligations = Table(
    "obligations",
    metadata,
    _number(),
    _of_session("RESTRICT"),  # history is not pruned before what it left behind is gone
    Column("server", Text, ForeignKey("servers.name"), nullable=False, index=True),
    Column("plugin", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("data", _Json, nullable=False),
    Column("created", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("last_error", Text, nullable=False),
    Index(None, "session", "id"),
    sqlite_autoincrement=True,
)

# The scheduler's ledger: who waits for which resources, and who holds them until when
slot_requests = Table(
    "slot_requests",
    metadata,
    _number(),  # also the place in the queue, so that one of a request that is gone may come again
    _of_session("CASCADE"),
    Column("task", _Number, nullable=False),
    Column("needs", _Json, nullable=False),
    Column("awaited", _Json, nullable=False),
    Column("granted", _Json),
    Column("requested", Double, nullable=False),
    Column("expires", Double, nullable=False, index=True),
    Column("job", Text, nullable=False, server_default=text("''")),
    Column("weight", Integer, nullable=False, server_default=text("1")),
    Column("reason", Text, nullable=False, server_default=text("''")),
    Column("ahead", Integer, nullable=False, server_default=text("0")),
    Index("uq_slot_requests_session_task", "session", "task", unique=True),
)

# The last round of the scheduler (one row): when it was, for how many, whether something has happened since; and when
# anybody looked after leases last, by which a clock that leaps is known
slot_rounds = Table(
    "slot_rounds",
    metadata,
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("done", Double, nullable=False),
    Column("waiting", Integer, nullable=False),
    Column("key", Text, nullable=False),
    Column("wanted", Boolean, nullable=False),
    Column("touched", Double),
)

# What the service remembers of a job that has a schedule
job_runs = Table(
    "job_runs",
    metadata,
    Column("name", Text, ForeignKey("jobs.name", ondelete="CASCADE"), primary_key=True),
    Column("key", Text, nullable=False),
    Column("handled", Double, nullable=False),
    Column("followed", _Number, nullable=False),
    Column("session", _Number),
    Column("failed", _Number),
    Column("retry_at", Double),
    Column("attempt", Integer, nullable=False),
    Column("arrived", BigInteger, nullable=False, server_default=text("0")),
)

# The service that leads (one row), and since when; whether it still does is told by its lock
services = Table(
    "services",
    metadata,
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("process", _Json, nullable=False),
    Column("since", Double, nullable=False),
)

# Who is to be told that a session has ended. ``due``: when it is tried next; NULL: it was told, or given up
notices = Table(
    "notices",
    metadata,
    _number(),
    _of_session("CASCADE"),
    Column("notifier", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("due", Double, index=True),
    Column("attempts", Integer, nullable=False),
    Column("delivered", Double),
    Column("last_error", Text, nullable=False),
    Index("uq_notices_session_notifier", "session", "notifier", unique=True),
    sqlite_autoincrement=True,
)

# The last transactions on a PostgreSQL server, as long as somebody may ask whether they were committed
commits = Table(
    "commits",
    metadata,
    Column("token", Text, primary_key=True),
    Column("made", Double, nullable=False),
)

# The traffic ledger: what each transferring task may send (NULL: no limit; 0: nothing was decided yet), and until when
# that holds unless its session renews it
transfers = Table(
    "transfers",
    metadata,
    _number(),
    _of_session("CASCADE"),
    Column("task", _Number, nullable=False),
    Column("source", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("fed_source", Text, nullable=False),
    Column("fed_target", Text, nullable=False),
    Column("reads", Text, nullable=False),
    Column("writes", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("own_limit", BigInteger),
    Column("rate_bytes_per_s", BigInteger),
    Column("expires", Double, nullable=False),
    Index("uq_transfers_session_task", "session", "task", unique=True),
    sqlite_autoincrement=True,
)
