"""`manage.py loaddata sample_data` loads the samples once, and never touches what is there."""

import datetime as dt
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import IntegrityError, connection

from usage.database import triggers
from usage.ledger.close import close
from usage.ledger.facts import Recorded
from usage.ledger.record import record
from usage.ledger.void import void
from usage.models import Bill, Customer, DailyUsage, UsageRecord
from usage.models.daily_usage import PAST_SLOT
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory, FactFactory
from usage.verification import Verification

pytestmark = pytest.mark.django_db


def load() -> None:
    call_command("loaddata", "sample_data", verbosity=0)


def dump() -> dict[str, list[dict[str, Any]]]:
    """Every column of every row of the service."""
    models = apps.get_app_config("usage").get_models()
    return {model.__name__: list(model._base_manager.order_by("pk").values()) for model in models}


@pytest.fixture
def samples(db: None, database_clock: DatabaseClock) -> DatabaseClock:
    """The samples, at a time when their month is open; return the clock."""
    database_clock.set("2026-10-20T12:00:00Z")
    load()
    return database_clock


def use(service: str = "Database Hosting", price: str = "0.05", **other: Any) -> None:
    fact = FactFactory.build(
        service=service, price_per_unit=Decimal(price), units=Decimal(2), **other
    )
    (outcome,) = record([fact], reported_by_id=None)
    assert isinstance(outcome, Recorded)


def test_the_samples_are_those_of_the_company(samples: DatabaseClock) -> None:
    customers = Customer.objects.values_list("id", "name")
    assert list(customers) == [(123, "Alice"), (456, "Bob"), (789, "Taylor")]
    usage = UsageRecord.objects.order_by("pk").values_list(
        "customer__name", "service", "units", "price_per_unit"
    )
    assert list(usage) == [
        ("Alice", "Database Hosting", Decimal(58), Decimal("0.05")),
        ("Bob", "Load Balancer", Decimal(27), Decimal("0.03")),
        ("Alice", "Linux Instance", Decimal(42), Decimal("0.15")),
        ("Alice", "CDN Storage", Decimal(15), Decimal("0.02")),
        ("Bob", "Domain Name Registration", Decimal(1), Decimal("14.99")),
    ]


def test_the_bills_are_consistent(samples: DatabaseClock) -> None:
    totals = {bill.customer.name: str(bill.total) for bill in Bill.objects.all()}
    assert totals == {"Alice": "9.50", "Bob": "15.80"}
    assert list(Verification().differences()) == []


def test_loaded_again_it_changes_nothing(samples: DatabaseClock) -> None:
    before = dump()
    load()
    assert dump() == before


def test_usage_added_to_the_same_day_stays(samples: DatabaseClock) -> None:
    occurred_at = UsageRecord.objects.get(pk="sample:1").occurred_at
    for slot in range(PAST_SLOT):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("usage.ledger.slot.process_number", partial(int, slot))
            use(occurred_at=occurred_at)
    assert DailyUsage.objects.get(service="Database Hosting", slot=0).units == 60
    before = dump()

    load()

    assert dump() == before
    assert Bill.objects.get(customer=123).total == Decimal("9.80")
    assert list(Verification().differences()) == []


def test_after_a_bill_was_closed_it_changes_nothing(samples: DatabaseClock) -> None:
    samples.set("2026-10-21T12:00:00Z")
    use()
    assert close(Bill.objects.get(customer=123), by="Sam")  # early, so that its period ends
    samples.set("2026-10-22T12:00:00Z")
    use()
    assert close(Bill.objects.get(customer=456), by="Sam")
    before = dump()

    load()

    assert dump() == before
    assert list(Verification().differences()) == []


def test_a_renamed_customer_keeps_the_new_name(samples: DatabaseClock) -> None:
    Customer.objects.filter(pk=123).update(name="Alice B.")
    before = dump()
    load()
    assert dump() == before


def test_voids_stay(samples: DatabaseClock) -> None:
    void(UsageRecord.objects.get(pk="sample:5"), reason="sent twice", by="carol")
    before = dump()
    load()
    assert dump() == before


def test_bills_of_others_keep_their_ids(db: None, database_clock: DatabaseClock) -> None:
    database_clock.set("2026-10-20T12:00:00Z")
    for number in range(1, 6):
        CustomerFactory.create(id=number)
        use(customer_id=number)
    others = list(Bill.objects.order_by("pk").values())

    load()
    load()

    assert list(Bill.objects.filter(customer__lte=5).order_by("pk").values()) == others
    totals = {bill.customer_id: str(bill.total) for bill in Bill.objects.filter(customer__gt=5)}
    assert totals == {123: "9.50", 456: "15.80"}
    assert list(Verification().differences()) == []


def test_it_loads_with_the_guards_on(samples: DatabaseClock) -> None:
    assert triggers.faults(connection) == {}


def test_new_bills_come_after_the_loaded_ones(samples: DatabaseClock) -> None:
    use(customer_id=789)
    assert Bill.objects.count() == 3


# A dump of everything, into an empty database and over itself


@pytest.fixture
def rich(samples: DatabaseClock) -> DatabaseClock:
    """The samples with more usage, a void, and usage that is late."""
    use(occurred_at=UsageRecord.objects.get(pk="sample:1").occurred_at, request_id="wrong")
    void(UsageRecord.objects.get(pk="wrong"), reason="sent twice", by="carol")
    samples.set("2026-10-21T12:00:00.123Z")
    use(occurred_at=dt.datetime(2026, 8, 1, tzinfo=dt.UTC))
    use(service="Zoë ﬀ", price="999999.999999999999")
    return samples


@pytest.mark.parametrize("natural", [False, True])
def test_a_dump_is_loaded_over_itself_without_a_change(
    natural: bool, rich: DatabaseClock, tmp_path: Path
) -> None:
    assert UsageRecord.objects.filter(late=True).exists()
    before = dump()
    file = dump_to(tmp_path / "dump.json", natural=natural)

    call_command("loaddata", file, verbosity=0)

    assert dump() == before


def dump_to(file: Path, *, natural: bool) -> Path:
    call_command(
        "dumpdata",
        "usage",
        use_natural_foreign_keys=natural,
        use_natural_primary_keys=natural,
        output=str(file),
        verbosity=0,
    )
    return file


@pytest.mark.parametrize("natural", [False, True])
def test_a_dump_goes_round_trip_through_an_empty_database(
    natural: bool, rich: DatabaseClock, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = dump()
    file = dump_to(tmp_path / "dump.json", natural=natural)
    request.getfixturevalue("emptied")

    call_command("loaddata", file, verbosity=0)

    assert without_ids(dump()) == without_ids(before)
    assert list(Verification().differences()) == []
    if not natural:
        assert dump() == before


def test_a_dump_with_closed_bills_is_refused_whole(
    rich: DatabaseClock, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    rich.set("2026-10-22T12:00:00Z")
    assert close(Bill.objects.get(customer=123), by="Sam")
    file = dump_to(tmp_path / "dump.json", natural=False)
    request.getfixturevalue("emptied")

    # Nothing lands on a closed bill, whoever brings it: a backup is for the database's own tools.
    with pytest.raises(IntegrityError, match="usage goes on an open bill of its own customer"):
        call_command("loaddata", file, verbosity=0)
    assert not any(dump().values())


@pytest.fixture
def emptied(db: None) -> None:
    """A database with its guards and without a row."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            triggers.remove(connection)
        else:
            cursor.execute("SET LOCAL session_replication_role = replica")
        for table in (
            *("historyentry", "dailyusage", "usagerecord", "bill", "customer", "billingtimezone"),
        ):
            cursor.execute(f"DELETE FROM usage_{table}")
        if connection.vendor == "sqlite":
            triggers.install(connection)
        else:
            cursor.execute("SET LOCAL session_replication_role = origin")
    assert triggers.faults(connection) == {}


def without_ids(tables: dict[str, list[dict[str, Any]]]) -> dict[str, list[Any]]:
    """The rows but for the numbers that the database gives out."""
    return {
        name: sorted(
            repr({key: value for key, value in row.items() if key not in {"id", "bill_id"}})
            for row in rows
        )
        for name, rows in tables.items()
    }
