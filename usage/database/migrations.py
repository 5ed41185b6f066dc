"""Whether the tables are of this version, for whoever is about to use them."""

from __future__ import annotations

from django.db import connection
from django.db.migrations.executor import MigrationExecutor


def unapplied_migrations() -> str:
    """Return the names of this version's migrations that are not applied, separated by commas."""
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in plan)
