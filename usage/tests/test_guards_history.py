"""The history is only ever added to."""

import pytest

from usage.models import Frozen, HistoryEntry
from usage.tests.guarded import any_connection, on_sqlite, plain, refused, run

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("closed")]


@pytest.mark.parametrize("column", [field.column for field in HistoryEntry._meta.fields])
def test_no_column_of_the_history_changes(column: str) -> None:
    refused(run(f"UPDATE usage_historyentry SET {column} = {column}"), "the history never changes")


def test_the_history_is_neither_changed_nor_deleted_through_the_orm() -> None:
    entry = HistoryEntry.objects.get()
    refused(lambda: plain(HistoryEntry).update(actor="Mallory"), "the history never changes")
    refused(lambda: plain(HistoryEntry).all().delete(), "never deleted")
    for change in (
        entry.save,
        entry.delete,
        HistoryEntry.objects.all().delete,
        lambda: HistoryEntry.objects.update(actor="Mallory"),
    ):
        with pytest.raises(Frozen):
            change()


def test_the_history_is_not_deleted() -> None:
    refused(run("DELETE FROM usage_historyentry"), "never deleted")


@on_sqlite
def test_the_history_is_not_replaced() -> None:
    columns = "bill_id, action, actor, reason, at, detail"
    for others in ("id, ", ""):
        with any_connection():
            refused(
                run(
                    f"INSERT OR REPLACE INTO usage_historyentry ({others}{columns})"
                    f" SELECT {others}{columns} FROM usage_historyentry"
                ),
                "the history is never replaced",
            )
