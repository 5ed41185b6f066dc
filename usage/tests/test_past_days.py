"""The kept sums of past days: exact whatever arrives later, and read in place of daily usage."""

from __future__ import annotations

import datetime as dt
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, connections, transaction

from usage.admin import figures
from usage.database.transactions import database_now
from usage.ledger import past_days
from usage.ledger.close import close
from usage.ledger.record import record
from usage.ledger.statements import STATEMENTS
from usage.ledger.void import void
from usage.models import Bill, DailyUsage, PastDays, UsageRecord
from usage.models.daily_usage import PAST_SLOT
from usage.tests.books import Books, assert_books_balance
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory, FactFactory
from usage.tests.live import PATIENCE_SECONDS
from usage.tests.staff import queries, report
from usage.verification import Verification

TODAY = "2026-11-23T12:00:00Z"
LAST_PAST = dt.date(2026, 11, 21)


@pytest.fixture
def now(database_clock: DatabaseClock, customer: Any) -> dt.datetime:
    return database_clock.set(TODAY)


def on(day: int, **values: Any) -> Bill:
    """Report one unit at a price of 1 that occurred on this day of November."""
    occurred_at = dt.datetime(2026, 11, day, 12, tzinfo=dt.UTC)
    return report(
        **{"units": Decimal(1), "price_per_unit": Decimal(1)} | values, occurred_at=occurred_at
    )


def shown(now: dt.datetime) -> Any:
    """Return all figures, in an order that does not depend on how they were read."""
    found = figures.figures(now)
    assert found is not None
    return found._replace(amounts=sorted(found.amounts), largest={})


def anew(now: dt.datetime) -> Any:
    """Return all figures as they are without kept sums."""
    with transaction.atomic():
        PastDays.objects.all().delete()
        found = shown(now)
        transaction.set_rollback(True)
    return found


def unvoided() -> list[UsageRecord]:
    voided = UsageRecord.objects.exclude(voids=None).values("voids")
    return list(UsageRecord.objects.filter(voids=None).exclude(pk__in=voided).order_by("pk"))


def slots() -> dict[dt.date, set[int]]:
    found: dict[dt.date, set[int]] = {}
    for day, slot in DailyUsage.objects.values_list("day", "slot"):
        found.setdefault(day, set()).add(slot)
    return found


@pytest.mark.no_cover  # other tests measure this code
@pytest.mark.django_db
@pytest.mark.parametrize("seed", range(4))
def test_the_figures_are_exact_whatever_arrives(
    seed: int, customer: Any, database_clock: DatabaseClock
) -> None:
    chance = random.Random(seed)
    CustomerFactory.create(id=456, currency="JPY")

    def use(now: dt.datetime, count: int) -> None:
        for _ in range(count):
            fact = FactFactory.build(
                customer_id=chance.choice((123, 456)),
                service=chance.choice(("CDN", "Database")),
                units=Decimal(chance.randrange(1, 10**9)).scaleb(-6),
                price_per_unit=Decimal(chance.choice((1, 3))).scaleb(-chance.choice((1, 12))),
                occurred_at=now - dt.timedelta(hours=chance.randrange(40 * 24)),
            )
            record([fact], reported_by_id=None)

    for day in ("2026-11-05", "2026-11-23", "2026-11-24", "2026-12-02"):
        now = database_clock.set(f"{day}T12:00:00Z")
        use(now, 8)
        past_days.add_up(now)
        assert shown(now) == anew(now)
        use(now, 4)
        void(chance.choice(unvoided()), by="Sam", reason="x")
        if bill := Bill.objects.due(now).first():
            close(bill, by="Sam")
        assert shown(now) == anew(now)
    assert PastDays.objects.get().summed_until == dt.date(2026, 11, 30)
    assert list(Verification().differences()) == []


@pytest.mark.django_db
def test_usage_of_past_days_has_rows_of_its_own(now: dt.datetime) -> None:
    for day in (21, 22, 23):
        on(day)
    own = slots()
    past_days.add_up(now)
    for day in (21, 22, 23):
        on(day)
    assert slots() == {**own, LAST_PAST: own[LAST_PAST] | {PAST_SLOT}}
    assert PAST_SLOT not in own[LAST_PAST]


@pytest.mark.django_db
def test_the_rows_that_are_kept_as_sums_are_not_read(now: dt.datetime) -> None:
    on(20)
    past_days.add_up(now)
    on(22)
    with queries() as statements:
        shown(now)
    summed = [sql for sql in statements if "GROUP BY" in sql]
    assert len(summed) == 2
    assert all("2026-11-21" in sql for sql in summed)


@pytest.mark.django_db
def test_sums_are_kept_once_for_each_day(now: dt.datetime, database_clock: DatabaseClock) -> None:
    on(20)
    past_days.add_up(now)
    with queries() as statements:
        past_days.add_up(now)
    assert len(statements) == 1

    past_days.add_up(database_clock.set("2026-11-24T00:05:00Z"))
    assert PastDays.objects.get().summed_until == dt.date(2026, 11, 22)


@pytest.mark.django_db
def test_a_run_that_was_interrupted_is_made_up_for(
    now: dt.datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(20)
    with monkeypatch.context() as patch:
        patch.setattr(past_days, "snapshot", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            past_days.add_up(now)
    on(20)
    assert PastDays.objects.get().summed_until is None
    assert shown(now) == anew(now)

    past_days.add_up(now)
    assert PastDays.objects.get().summed_until == LAST_PAST
    assert shown(now) == anew(now)


@pytest.mark.django_db
def test_a_later_day_stays_past_when_the_clock_is_set_back(
    now: dt.datetime, database_clock: DatabaseClock
) -> None:
    on(20)
    past_days.add_up(now)
    september = database_clock.set("2026-10-01T12:00:00Z")
    assert shown(september) == anew(september)  # of months that are not kept

    past_days.add_up(september)
    assert PastDays.objects.get().until == LAST_PAST


@pytest.mark.django_db
@pytest.mark.parametrize("change", ["more", "missing", "other"])
def test_a_kept_sum_that_is_wrong_is_a_difference(change: str, now: dt.datetime) -> None:
    bill = on(20)
    past_days.add_up(now)
    row = PastDays.objects.get()
    service = "Database Hosting"
    if change == "more":
        row.lines[0][3] = row.amounts[0][4] = "3"
    elif change == "missing":
        row.lines, row.amounts = [], []
    else:
        row.lines[0][1] = row.amounts[0][3] = service = "CDN"
    row.save()

    found = [str(difference) for difference in Verification().differences()]

    kept, made, off = {"more": (3, 1, "+2"), "missing": (0, 1, "-1"), "other": (1, 0, "+1")}[change]
    units = f"{kept} unit{'' if kept == 1 else 's'}"
    assert (
        f"bill {bill.pk}: past days: the kept sum of '{service}' at 1 up to 2026-11-21 is {units},"
        f" daily usage has {made}: off by {off}."
    ) in found
    assert (
        f"all bills: past days: the kept amount of '{service}' on 2026-11-20, on all bills of"
        f" 2026-11 in USD, is {kept}, daily usage makes {made}: off by {off}."
    ) in found
    assert len(found) == (4 if change == "other" else 2)
    assert list(Verification(Bill.objects.all()).differences()) == []


@pytest.mark.django_db
def test_check_usage_adds_them_up(now: dt.datetime) -> None:
    on(20)
    call_command("check_usage")
    assert PastDays.objects.get().summed_until == LAST_PAST


def test_transactions_that_write_meanwhile_are_waited_for(
    own_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that read the last past day before it moved writes to a row that is summed."""
    engine = STATEMENTS[connection.vendor]
    now = database_now()
    day = now - dt.timedelta(days=3)
    has_read, goes_on = threading.Event(), threading.Event()
    read = engine.accounts

    def read_and_pause(sql: Any, customer_ids: Any) -> Any:
        found = read(sql, customer_ids)
        has_read.set()
        assert goes_on.wait(PATIENCE_SECONDS)
        return found

    def write(units: int) -> None:
        fact = FactFactory.build(
            customer_id=1, units=Decimal(units), price_per_unit=Decimal(1), occurred_at=day
        )
        record([fact], reported_by_id=None)
        connections.close_all()

    def add_up() -> None:
        past_days.add_up(now)
        connections.close_all()

    write(1)
    monkeypatch.setattr(engine, "accounts", read_and_pause)
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(write, 2)
        assert has_read.wait(PATIENCE_SECONDS)
        adding = pool.submit(add_up)
        # Nothing tells from outside that it waits, so it is given time not to.
        assert not threading.Event().wait(0.3)
        assert not adding.done()
        assert not PastDays.objects.exclude(summed_until=None).exists()
        goes_on.set()
        writing.result(PATIENCE_SECONDS)
        adding.result(PATIENCE_SECONDS)
    write(4)

    kept = PastDays.objects.sums()
    assert [line.units for line in kept.lines] == [3]
    assert list(DailyUsage.objects.filter(slot=PAST_SLOT).values_list("units", flat=True)) == [4]
    assert shown(now) == anew(now)
    assert list(Verification().differences()) == []
    assert_books_balance(own_books)
