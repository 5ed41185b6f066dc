"""Books of the version before are migrated, and not a value of a closed bill changes."""

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection
from django.db.migrations.executor import MigrationExecutor
from pytest_django.fixtures import Settings
from pytest_django.plugin import DjangoDbBlocker

from usage.database import triggers
from usage.models import Bill, BillingTimeZone, Customer, DailyUsage, OtherTimeZone
from usage.tests.books import Books, copied, default_database, empty_database
from usage.tests.guarded import on_postgresql, on_sqlite, run

OCTOBER = dt.datetime(2026, 10, 1, tzinfo=dt.UTC)
NOVEMBER = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
DECEMBER = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)


class OldBooks:
    """A database at the last migration before 0008_books, and the models of that version."""

    def __init__(self, models: Any) -> None:
        self.models = models

    def insert(self, model: str, **values: Any) -> Any:
        return self.models.get_model("usage", model).objects.create(**values)

    def bill(self, currency: str, *, closed_total: str | None = None) -> Any:
        """Insert a customer in a currency and a bill: of October if closed, else of November."""
        customer = self.insert(
            "Customer", id=Customer.objects.count() + 1, name="Carol", currency=currency
        )
        start, end = (OCTOBER, NOVEMBER) if closed_total else (NOVEMBER, DECEMBER)
        return self.insert(
            "Bill",
            customer=customer,
            month=start.date(),
            period_start=start,
            period_end=end,
            currency=currency,
            closed_at=end + dt.timedelta(days=4) if closed_total else None,
            closed_total=Decimal(closed_total) if closed_total else None,
            closed_name="Carol" if closed_total else None,
            closed_reference="" if closed_total else None,
        )


@pytest.fixture(scope="module")
def to_upgrade(django_db_blocker: DjangoDbBlocker) -> Iterator[tuple[Books, Any]]:
    """A database to copy, in which only the migrations from 0008_books on are missing."""
    before = ("usage", "0007_command_runs")
    with django_db_blocker.unblock(), empty_database() as url:
        with default_database(url):
            call_command("migrate", *before, verbosity=0)
            executor = MigrationExecutor(connection)
            leaves = executor.loader.graph.leaf_nodes()
            executor.migrate([leaf for leaf in leaves if leaf[0] != "usage"])
            models = executor.loader.project_state([before]).apps
        django_db_blocker.block()
        yield Books(url, key=""), models
        django_db_blocker.restore()


@pytest.fixture
def old_books(
    to_upgrade: tuple[Books, Any], django_db_blocker: DjangoDbBlocker
) -> Iterator[OldBooks]:
    books, models = to_upgrade
    with django_db_blocker.unblock(), copied(books) as own, default_database(own.url):
        yield OldBooks(models)


def migrate() -> None:
    call_command("migrate", verbosity=0)


@pytest.mark.django_db  # it asks which migrations are applied
def test_the_migrations_make_the_tables_of_the_models() -> None:
    call_command("makemigrations", check=True, dry_run=True)  # exits if one is missing


@pytest.mark.no_cover  # other tests measure this code
def test_closed_bills_keep_the_digits_they_were_rounded_to_and_open_ones_get_isos(
    old_books: OldBooks,
) -> None:
    closed = [old_books.bill("RSD", closed_total="3"), old_books.bill("IDR", closed_total="0.46")]
    opened = [old_books.bill("RSD"), old_books.bill("IQD"), old_books.bill("XAU")]
    values = old_books.models.get_model("usage", "Bill").objects.order_by("pk").values
    before = list(values())

    migrate()

    assert list(values()) == before
    shown = {bill.pk: str(bill.total) for bill in Bill.objects.closed()}
    assert shown == {closed[0].pk: "3", closed[1].pk: "0.46"}
    digits = dict(Bill.objects.open().values_list("pk", "minor_unit_digits"))
    assert digits == dict(zip([bill.pk for bill in opened], (2, 3, 2), strict=True))


def test_a_bill_stays_closed_for_every_other_transaction(old_books: OldBooks) -> None:
    bill = old_books.bill("RSD", closed_total="3")

    migrate()

    assert triggers.faults(connection) == {}
    with pytest.raises(IntegrityError, match="a bill changes only once"):
        run(f"UPDATE usage_bill SET minor_unit_digits = 2 WHERE id = {bill.pk}")()


def test_existing_books_keep_the_zone_that_all_bills_fit(old_books: OldBooks) -> None:
    old_books.bill("USD", closed_total="3")
    old_books.bill("USD")

    migrate()

    assert BillingTimeZone.objects.kept() == "UTC"


def test_books_without_a_bill_keep_no_zone_yet(old_books: OldBooks) -> None:
    migrate()
    assert BillingTimeZone.objects.kept() is None


def test_another_zone_than_the_bills_is_refused_by_the_name_of_a_bill(
    old_books: OldBooks, settings: Settings
) -> None:
    bill = old_books.bill("USD")
    for zone in ("Europe/Vienna", "America/New_York", "Pacific/Kiritimati"):
        settings.TIME_ZONE = settings.BILLING_TIME_ZONE = zone
        with pytest.raises(OtherTimeZone, match=rf"Bill {bill.pk} of 2026-11 covers .*{zone}"):
            migrate()

    settings.TIME_ZONE = settings.BILLING_TIME_ZONE = "UTC"
    migrate()
    assert BillingTimeZone.objects.kept() == "UTC"


def test_the_rest_of_a_month_after_an_early_close_fits(old_books: OldBooks) -> None:
    early = old_books.bill("USD")
    halfway = dt.datetime(2026, 11, 11, tzinfo=dt.UTC)
    run(
        "UPDATE usage_bill SET closed_total = 0, closed_at = '2026-11-11 00:00:00',"
        " closed_name = 'Carol', closed_reference = '',"
        " period_end = '2026-11-11 00:00:00'"
    )()
    old_books.insert(
        "Bill",
        customer_id=early.customer_id,
        month=NOVEMBER.date(),
        period_start=halfway,
        period_end=DECEMBER,
        currency="USD",
    )

    migrate()

    assert BillingTimeZone.objects.kept() == "UTC"


def test_an_older_version_records_beside_the_new_schema(old_books: OldBooks) -> None:
    migrate()

    opened, closed = old_books.bill("RSD"), old_books.bill("RSD", closed_total="3")

    assert Bill.objects.get(pk=opened.pk).digits == 2
    assert str(Bill.objects.get(pk=closed.pk).total) == "3"


@on_postgresql
def test_a_guard_that_was_weaker_is_replaced(old_books: OldBooks) -> None:
    run(
        "CREATE FUNCTION usage_refuse_truncate() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN RETURN NULL; END $$"
    )()
    run(
        "CREATE TRIGGER bill_never_truncated BEFORE TRUNCATE ON usage_bill"
        " FOR EACH STATEMENT EXECUTE FUNCTION usage_refuse_truncate()"
    )()

    migrate()

    assert triggers.faults(connection) == {}
    with pytest.raises(IntegrityError, match="is never emptied"):
        run("TRUNCATE usage_bill CASCADE")()


@on_postgresql
def test_a_row_that_breaks_a_new_check_is_reported_and_stops_no_migration(
    old_books: OldBooks, capfd: pytest.CaptureFixture[str]
) -> None:
    bill = old_books.bill("USD")
    old_books.insert(
        "DailyUsage",
        customer_id=bill.customer_id,
        bill=bill,
        service="x",
        price_per_unit=Decimal(1),
        day=NOVEMBER.date(),
        slot=0,
        units=Decimal(1),
        records=1,
    )
    run("UPDATE usage_dailyusage SET units = 'NaN'")()

    migrate()

    assert "daily_usage_readable" in capfd.readouterr().err
    with pytest.raises(IntegrityError, match="daily_usage_readable"):
        run("UPDATE usage_dailyusage SET records = 2")()
    assert DailyUsage.objects.exists()


@on_sqlite
def test_a_row_that_breaks_a_new_check_is_named(old_books: OldBooks) -> None:
    bill = old_books.bill("USD")
    run("UPDATE usage_bill SET period_end = 'garbage'")()

    with pytest.raises(IntegrityError, match=f"usage_bill has .* bill_readable: {bill.pk}. Corr"):
        migrate()


@pytest.mark.measured
@on_postgresql
def test_an_index_is_added_again_where_an_interrupted_try_left_one(old_books: OldBooks) -> None:
    migrate()
    run("CREATE INDEX record_by_customer ON usage_usagerecord (late)")()

    call_command("migrate", "usage", "0012", verbosity=0)

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_get_indexdef('record_by_customer'::regclass)")
        assert cursor.fetchone()[0].endswith("(customer_id, recorded_at)")
