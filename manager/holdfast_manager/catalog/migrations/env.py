"""Alembic's environment: runs the migrations on the connection (and in the transaction) that ``schema`` hands over."""

from __future__ import annotations

from alembic import context

from holdfast_manager.catalog.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
