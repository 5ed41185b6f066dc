"""The billing time zone is kept once and never changes."""

import pytest

from usage.models import BillingTimeZone, Frozen
from usage.tests.guarded import any_connection, on_sqlite, plain, refused, run

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("closed")]


def test_the_zone_is_neither_changed_nor_deleted() -> None:
    message = "the billing time zone never changes"
    refused(run("UPDATE usage_billingtimezone SET name = 'Europe/Vienna'"), message)
    refused(run("DELETE FROM usage_billingtimezone"), message)
    refused(lambda: plain(BillingTimeZone).update(name="Europe/Vienna"), message)
    zone = BillingTimeZone.objects.get()
    for change in (zone.save, zone.delete, BillingTimeZone.objects.all().delete):
        with pytest.raises(Frozen):
            change()


@on_sqlite
def test_the_zone_is_not_replaced() -> None:
    sql = "INSERT OR REPLACE INTO usage_billingtimezone (id, name) VALUES (1, 'Europe/Vienna')"
    with any_connection():
        refused(run(sql), "the billing time zone never changes")
