"""Alembic migrations of the catalogue; run by ``schema.migrate``."""
