"""`triggers.faults` sees every way in which a guard does not hold."""

import hashlib
from pathlib import Path

import pytest
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from usage.database import triggers
from usage.tests.guarded import on_postgresql, on_sqlite, run

pytestmark = pytest.mark.django_db

EMPTIED = {
    "postgresql": (
        "CREATE OR REPLACE FUNCTION usage_bill_only_closes() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN RETURN NEW; END $$"
    ),
    "sqlite": "CREATE TRIGGER bill_only_closes BEFORE UPDATE ON usage_bill BEGIN SELECT 1; END",
}


def empty_a_guard() -> None:
    if connection.vendor == "sqlite":
        run("DROP TRIGGER bill_only_closes")()
    run(EMPTIED[connection.vendor])()


def test_every_guard_holds_after_the_migrations() -> None:
    assert triggers.faults(connection) == {}
    assert (
        len(triggers._guards(connection.vendor))
        == {"postgresql": 24, "sqlite": 30}[connection.vendor]
    )


def test_an_emptied_guard_is_changed() -> None:
    empty_a_guard()
    assert triggers.faults(connection) == {"bill_only_closes": "changed"}


def test_a_guard_that_a_newer_version_changed_is_not_a_fault() -> None:
    empty_a_guard()
    MigrationRecorder(connection).record_applied("usage", "9999_newer_guards")
    assert triggers.faults(connection) == {}


@on_sqlite
def test_a_guard_on_another_table_is_missing_sqlite() -> None:
    run("DROP TRIGGER bill_only_closes")()
    run(EMPTIED["sqlite"].replace("usage_bill", "usage_customer"))()
    assert triggers.faults(connection) == {"bill_only_closes": "missing"}


@on_postgresql
def test_a_guard_on_another_table_is_missing() -> None:
    run("DROP TRIGGER bill_only_closes ON usage_bill")()
    run(
        "CREATE TRIGGER bill_only_closes BEFORE UPDATE ON usage_customer"
        " FOR EACH ROW EXECUTE FUNCTION usage_bill_only_closes()"
    )()
    assert triggers.faults(connection) == {"bill_only_closes": "missing"}


@on_postgresql
def test_a_guard_in_another_schema_is_missing() -> None:
    run("CREATE SCHEMA other")()
    run("CREATE TABLE other.usage_bill (LIKE usage_bill)")()
    run("DROP TRIGGER bill_only_closes ON usage_bill")()
    run(
        "CREATE TRIGGER bill_only_closes BEFORE UPDATE ON other.usage_bill"
        " FOR EACH ROW EXECUTE FUNCTION usage_bill_only_closes()"
    )()
    assert triggers.faults(connection) == {"bill_only_closes": "missing"}


@on_postgresql
def test_a_guard_that_calls_a_function_of_another_schema_is_changed() -> None:
    run("CREATE SCHEMA other")()
    run(EMPTIED["postgresql"].replace("usage_bill_only_closes", "other.usage_bill_only_closes"))()
    run(
        "CREATE OR REPLACE TRIGGER bill_only_closes BEFORE UPDATE ON usage_bill"
        " FOR EACH ROW EXECUTE FUNCTION other.usage_bill_only_closes()"
    )()
    assert triggers.faults(connection) == {"bill_only_closes": "changed"}


@on_postgresql
@pytest.mark.parametrize("how", ["DISABLE TRIGGER", "ENABLE REPLICA TRIGGER"])
def test_a_guard_that_is_switched_off_does_not_hold(how: str) -> None:
    run(f"ALTER TABLE usage_usagerecord {how} record_never_changes")()
    assert triggers.faults(connection) == {"record_never_changes": "switched off"}


@on_postgresql
def test_no_guard_holds_where_triggers_of_the_origin_are_switched_off() -> None:
    run("SET LOCAL session_replication_role = replica")()
    assert triggers.faults(connection) == {
        "every guard": "switched off by session_replication_role"
    }


@on_postgresql
def test_a_constraint_without_its_condition_is_changed() -> None:
    run("ALTER TABLE usage_bill DROP CONSTRAINT bill_periods_apart")()
    run(
        "ALTER TABLE usage_bill ADD CONSTRAINT bill_periods_apart"
        " EXCLUDE USING gist (tstzrange(period_start, period_start) WITH &&)"
    )()
    assert triggers.faults(connection) == {"bill_periods_apart": "changed"}


# Changing the SQL? Add a migration that ends with `install_in_migration`, take that step out of the
# others whose tables the SQL does not fit, and state the new migration and digests. A migration
# that only installs the same SQL again is stated too.
INSTALLED_BY = "0012_drop_check"
DIGESTS = {"postgresql": "eebbb550d1f6e000", "sqlite": "41f61a155c3bf06a"}


@pytest.mark.parametrize("vendor", DIGESTS)
def test_a_changed_guard_reaches_existing_databases_by_a_migration(vendor: str) -> None:
    folder = Path(triggers.__file__).parent
    sql = (folder / f"triggers_{vendor}.sql").read_bytes()
    migrations = (folder.parent / "migrations").glob("[0-9]*.py")
    last = max(file.stem for file in migrations if "install_in_migration" in file.read_text())

    assert (last, hashlib.sha256(sql).hexdigest()[:16]) == (
        INSTALLED_BY,
        DIGESTS[vendor],
    )
