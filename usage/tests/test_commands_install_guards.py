"""`manage.py install_guards` puts back what /readyz misses."""

import pytest
from django.core.management import call_command
from django.db import connection

from usage.database import triggers

pytestmark = pytest.mark.django_db


def drop(name: str, table: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            f"DROP TRIGGER {name}" + (f" ON {table}" if connection.vendor == "postgresql" else "")
        )


def test_missing_guards_are_named_and_stand_again(capsys: pytest.CaptureFixture[str]) -> None:
    drop("bill_only_closes", "usage_bill")
    drop("record_never_changes", "usage_usagerecord")
    assert triggers.missing(connection) == {"bill_only_closes", "record_never_changes"}

    call_command("install_guards")

    assert triggers.missing(connection) == set()
    assert capsys.readouterr().out == (
        "Missing before: bill_only_closes, record_never_changes; all stand now.\n"
    )


def test_it_does_no_harm_when_all_stand(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("install_guards")

    assert triggers.missing(connection) == set()
    assert "Missing before: none" in capsys.readouterr().out
