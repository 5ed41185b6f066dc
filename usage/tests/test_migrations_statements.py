"""The upgrade keeps a name with each bill that was closed before names were kept."""

from collections.abc import Iterator

import pytest
from django.core.management import call_command
from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from usage.models import Bill, Change
from usage.tests.books import default_database, empty_database

BEFORE = "0004"
# Guards as the version before had them: one refuses a change of a closed bill, and one of another
# table reads the bills, so that SQLite cannot remake their table.
OLD_GUARDS = {
    "sqlite": """
        CREATE TRIGGER bill_only_closes BEFORE UPDATE ON usage_bill
        BEGIN SELECT RAISE(ABORT, 'a bill changes only once'); END;
        --
        CREATE TRIGGER customer_keeps_currency BEFORE UPDATE OF currency ON usage_customer
        WHEN EXISTS (SELECT 1 FROM usage_bill) BEGIN SELECT RAISE(ABORT, 'fixed'); END;
    """,
    "postgresql": """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'a bill changes only once'; END $$;
        --
        CREATE TRIGGER bill_only_closes BEFORE UPDATE ON usage_bill
        FOR EACH ROW EXECUTE FUNCTION refuse();
    """,
}
ROWS = """
    INSERT INTO usage_customer (id, name, currency) VALUES (1, 'Mu\u0308ller', 'USD');
    --
    INSERT INTO usage_bill
    (id, customer_id, month, period_start, period_end, currency, closed_at, closed_total)
    VALUES (7, 1, '2026-10-01', '2026-10-01 00:00:00', '2026-11-01 00:00:00', 'USD',
    '2026-11-04 00:00:00', 0);
    --
    INSERT INTO auth_user (id, username, password, is_superuser, is_staff, is_active, first_name,
    last_name, email, date_joined)
    VALUES (1, 'sam', '', true, true, true, '', '', '', '2026-10-01 00:00:00');
    --
    INSERT INTO django_admin_log
    (action_time, object_id, object_repr, action_flag, change_message, content_type_id, user_id)
    SELECT '2026-10-02 00:00:00', '1', 'x', 2, '[{"changed": {"fields": ["Name"]}}]', id, 1
    FROM django_content_type WHERE app_label = 'usage' AND model = 'customer';
"""


@pytest.fixture(scope="module")
def upgraded(django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    with django_db_blocker.unblock(), empty_database() as url, default_database(url):
        call_command("migrate", "usage", BEFORE, verbosity=0)
        call_command("migrate", "admin", verbosity=0)
        with connection.cursor() as cursor:
            for script in (OLD_GUARDS[connection.vendor], ROWS):
                for sql in script.split("--"):
                    cursor.execute(sql)
        call_command("migrate", "usage", verbosity=0)
        yield


@pytest.mark.no_cover
def test_a_bill_closed_before_has_the_name_of_the_upgrades_day(upgraded: None) -> None:
    bill = Bill.objects.get()
    assert (bill.closed_name, bill.closed_reference) == ("Müller", "")
    assert bill.named_after_closing


def test_the_log_of_customers_goes_into_their_history(upgraded: None) -> None:
    entry = Change.objects.get()
    assert (entry.actor, entry.action, entry.reason) == ("sam", "changed", "Changed Name.")
