"""Alembic's scripts. A released one never changes: databases out there were made by it."""
