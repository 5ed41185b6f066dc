"""PostgreSQL refuses to empty the tables whose rows are for ever."""

import pytest
from django.db import IntegrityError, connection

from usage.models import Bill
from usage.tests.books import Books
from usage.tests.guarded import on_postgresql, refused, run

pytestmark = on_postgresql


@pytest.mark.django_db
@pytest.mark.parametrize(
    "table",
    [
        "usage_usagerecord",
        "usage_bill",
        "usage_dailyusage",
        "usage_customer",
        "usage_apikey",
        "usage_historyentry",
    ],
)
def test_no_table_is_emptied(table: str, opened: Bill) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # or their pending events refuse first
    refused(run(f"TRUNCATE {table} CASCADE"), "is never emptied")


def test_the_setting_of_a_tests_teardown_empties_no_other_database(own_books: Books) -> None:
    run("SET usage.truncate_allowed = 'on'")()
    with pytest.raises(IntegrityError, match="is never emptied"):
        run("TRUNCATE usage_bill CASCADE")()
