"""Alembic's environment: one SQLite file, named by the caller."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, event

from gateway.store.schema import metadata

engine = create_engine(f"sqlite:///{context.config.attributes['path']}")


@event.listens_for(engine, "connect")
def _own_transactions(connection: object, _: object) -> None:
    # The driver's default commits before every schema statement; a migration is all or nothing.
    connection.isolation_level = None  # type: ignore[attr-defined]


@event.listens_for(engine, "begin")
def _begin(connection: object) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")  # type: ignore[attr-defined]


with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
