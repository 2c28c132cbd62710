"""The tables of users, their tokens, and of what they did."""

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
    Table,
    Text,
)

from .tables import metadata

_Number = BigInteger().with_variant(Integer, "sqlite")

users = Table(
    "users",
    metadata,
    Column("name", Text, primary_key=True),
    Column("roles", JSON(none_as_null=True), nullable=False),
    Column("public_key", Text),
    Column("password", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("created", Double, nullable=False),
    Index("uq_users_public_key", "public_key", unique=True),
)

user_tokens = Table(
    "user_tokens",
    metadata,
    Column("id", _Number, primary_key=True, autoincrement=True),
    Column("user", Text, ForeignKey("users.name", ondelete="CASCADE"), nullable=False, index=True),
    Column("label", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double),
    Index("uq_user_tokens_digest", "digest", unique=True),
    sqlite_autoincrement=True,
)

# Rows are added at the end and pruned at the beginning, never changed; ``seal`` holds on to the row before
audit = Table(
    "audit",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=False),
    Column("time", Double, nullable=False),
    Column("actor", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("concerns", _Number, nullable=False),
    Column("seal", LargeBinary, nullable=False),
    Index("ix_audit_concerns", "concerns"),
)

# Where the audit log begins and ends (one row)
audit_heads = Table(
    "audit_heads",
    metadata,
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("start", _Number, nullable=False),
    Column("start_seal", LargeBinary, nullable=False),
    Column("last", _Number, nullable=False),
    Column("last_seal", LargeBinary, nullable=False),
    Column("seal", LargeBinary, nullable=False),
)

# Four eyes: who asked for what, and who decided. ``digest``: of the command and all that it acts on
approvals = Table(
    "approvals",
    metadata,
    Column("id", _Number, primary_key=True, autoincrement=True),
    Column("asker", Text, nullable=False),
    Column("asker_local", Boolean, nullable=False),
    Column("action", Text, nullable=False),
    Column("targets", JSON(none_as_null=True), nullable=False),
    Column("digest", Text, nullable=False, index=True),
    Column("state", Text, nullable=False),
    Column("asked", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("decider", Text, nullable=False),
    Column("decided", Double),
    sqlite_autoincrement=True,
)

# Whether approvals are required (one row: they are), by whom and since when
four_eyes = Table(
    "four_eyes",
    metadata,
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("required_by", Text, nullable=False),
    Column("since", Double, nullable=False),
)
