"""The history of customers and API keys is only ever added to."""

import pytest

from usage.models import ApiKey, Change, Frozen
from usage.tests.guarded import on_sqlite, plain, refused, run

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("api_key")]


@pytest.mark.parametrize("column", [field.column for field in Change._meta.fields])
def test_no_column_of_the_history_changes(column: str) -> None:
    refused(run(f"UPDATE usage_change SET {column} = {column}"), "never changes")


def test_the_history_is_neither_changed_nor_deleted_through_the_orm() -> None:
    entry = Change.objects.get()
    refused(lambda: plain(Change).update(actor="Mallory"), "never changes")
    refused(lambda: plain(Change).all().delete(), "never deleted")
    for change in (
        entry.save,
        entry.delete,
        Change.objects.all().delete,
        lambda: Change.objects.update(actor="Mallory"),
    ):
        with pytest.raises(Frozen):
            change()


@on_sqlite
def test_the_history_is_not_replaced() -> None:
    refused(run("INSERT OR REPLACE INTO usage_change SELECT * FROM usage_change"), "never deleted")


def test_a_key_with_a_history_is_not_deleted() -> None:
    refused(run("DELETE FROM usage_apikey"), "an API key is never deleted")
    assert ApiKey.objects.exists()
