"""`manage.py install_guards` mends what /readyz complains of, and says truly what it mended."""

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from usage.database import triggers
from usage.tests.guarded import on_postgresql, run

pytestmark = [pytest.mark.django_db, pytest.mark.measured]


def drop(name: str, table: str) -> None:
    run(f"DROP TRIGGER {name}" + (f" ON {table}" if connection.vendor == "postgresql" else ""))()


def test_missing_guards_are_mended_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    drop("bill_only_closes", "usage_bill")
    drop("record_never_changes", "usage_usagerecord")

    call_command("install_guards")

    assert triggers.faults(connection) == {}
    assert capsys.readouterr().out == (
        "Mended bill_only_closes, which was missing.\n"
        "Mended record_never_changes, which was missing.\n"
    )


@on_postgresql
def test_an_emptied_function_is_mended_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    run(
        "CREATE OR REPLACE FUNCTION usage_refuse_truncate() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN RETURN NULL; END $$"
    )()

    call_command("install_guards")

    assert triggers.faults(connection) == {}
    assert "Mended record_never_truncated, which was changed.\n" in capsys.readouterr().out


@on_postgresql
def test_a_guard_that_is_switched_off_is_switched_on(capsys: pytest.CaptureFixture[str]) -> None:
    run("ALTER TABLE usage_usagerecord DISABLE TRIGGER record_never_changes")()

    call_command("install_guards")

    assert triggers.faults(connection) == {}
    assert capsys.readouterr().out == "Mended record_never_changes, which was switched off.\n"


@on_postgresql
def test_it_fails_where_a_setting_switches_the_guards_off() -> None:
    run("SET LOCAL session_replication_role = replica")()

    with pytest.raises(CommandError, match="every guard is switched off by session_replication_"):
        call_command("install_guards")


def test_it_changes_nothing_when_every_guard_holds(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("install_guards")

    assert capsys.readouterr().out == "Every guard holds; nothing was changed.\n"
