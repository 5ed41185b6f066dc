"""A migration locks no large table for long: squawk reads the SQL of each."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from pytest_django import DjangoDbBlocker

pytestmark = [
    pytest.mark.live,
    pytest.mark.database,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="squawk reads PostgreSQL's SQL."),
]
# The tables that these change hold acts of staff or settings, of which there are few.
ON_SMALL_TABLES = {"0004_month_end", "0005_statements"}


def squawk(sql: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("squawk")
    return subprocess.run(
        [program, "--config", Path(settings.BASE_DIR) / ".squawk.toml"],
        check=False,
        input=sql,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.usefixtures("django_db_setup")
def test_no_migration_locks_a_large_table(django_db_blocker: DjangoDbBlocker) -> None:
    names = {name for app, name in MigrationLoader(None).disk_migrations if app == "usage"}
    for name in sorted(names - ON_SMALL_TABLES):
        sql = io.StringIO()
        # Outside of a transaction, in which some would refuse to run. Nothing is changed.
        with django_db_blocker.unblock():
            call_command("sqlmigrate", "usage", name, stdout=sql)

        result = squawk(sql.getvalue())

        assert result.returncode == 0, f"{name}\n{result.stdout}{result.stderr}"


def test_a_migration_that_would_lock_one_is_found() -> None:
    sql = "CREATE INDEX record_by_service ON usage_usagerecord (service);"

    result = squawk(sql)

    assert result.returncode == 1
    assert "require-concurrent-index-creation" in result.stdout
