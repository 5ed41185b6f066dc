"""A void cancels a record by one with negative units, once."""

from decimal import Decimal
from itertools import product

import pytest
from django.contrib.auth.models import User
from django.db import connection

from usage.ledger.close import close
from usage.ledger.record import record
from usage.ledger.void import VoidRefused, void
from usage.models import Bill, Customer, DailyUsage, UsageRecord
from usage.tests.conftest import DatabaseClock, Post
from usage.tests.factories import FactFactory, usage_body

pytestmark = pytest.mark.django_db


@pytest.fixture
def usage(customer: Customer) -> UsageRecord:
    record([FactFactory.build(request_id="cdn:17")], reported_by_id=None)
    usage: UsageRecord = UsageRecord.objects.get()
    return usage


def test_a_void_mirrors_its_record_and_names_who_and_why(usage: UsageRecord) -> None:
    void_record = void(usage, reason=" sent twice ", by=User(username="carol"))

    assert void_record.pk == "void cdn:17"
    assert void_record.voids_id == usage.pk
    assert (void_record.void_reason, void_record.voided_by) == ("sent twice", "carol")
    assert void_record.units == -usage.units
    assert void_record.amount == -usage.amount
    for field in ("customer_id", "bill_id", "service", "price_per_unit", "occurred_at"):
        assert getattr(void_record, field) == getattr(usage, field)
    assert void_record.reported_by_id is None


def test_a_voided_record_knows_its_void(usage: UsageRecord) -> None:
    assert usage.void_record is None
    void_record = void(usage, reason="sent twice", by="carol")
    assert usage.void_record == void_record


def test_what_is_voided_costs_nothing_and_stays_in_sight(usage: UsageRecord) -> None:
    void(usage, reason="sent twice", by="carol")

    bill = Bill.objects.get()
    assert bill.total == 0
    (line,) = bill.lines()
    assert (line.units, line.records) == (0, 2)
    assert UsageRecord.objects.filter(pk="cdn:17").exists()


def test_a_record_is_voided_once(usage: UsageRecord) -> None:
    void(usage, reason="sent twice", by="carol")

    with pytest.raises(VoidRefused, match=r"^cdn:17 is voided already"):
        void(usage, reason="sent twice", by="dave")
    assert UsageRecord.objects.count() == 2
    assert DailyUsage.objects.get().units == 0


def test_it_is_voided_once_also_after_its_bill_was_closed(
    usage: UsageRecord, database_clock: DatabaseClock
) -> None:
    void(usage, reason="sent twice", by="carol")
    database_clock.set("2099-01-15T00:00:00Z")
    assert close(Bill.objects.get(), by="Sam")

    with pytest.raises(VoidRefused, match="voided already"):
        void(usage, reason="sent twice", by="carol")
    assert Bill.objects.count() == 1


def test_a_void_cannot_be_voided(usage: UsageRecord) -> None:
    void_record = void(usage, reason="sent twice", by="carol")

    with pytest.raises(VoidRefused, match="report the usage again under a new id"):
        void(void_record, reason="it was right", by="carol")
    assert UsageRecord.objects.count() == 2


@pytest.mark.parametrize("reason", ["", "  \n", "x" * 501])
def test_a_reason_is_given_and_fits(reason: str, usage: UsageRecord) -> None:
    with pytest.raises(VoidRefused, match="Give a reason of 1 to 500 characters"):
        void(usage, reason=reason, by="carol")
    assert UsageRecord.objects.count() == 1


def test_the_longest_id_and_reason_are_taken(customer: Customer) -> None:
    record([FactFactory.build(request_id="x" * 128)], reported_by_id=None)

    void_record = void(UsageRecord.objects.get(), reason="y" * 500, by="z" * 150)

    assert void_record.pk == "void " + "x" * 128


def test_the_voided_id_stays_taken(usage: UsageRecord, post: Post) -> None:
    void(usage, reason="sent twice", by="carol")

    same = post(usage_body(request_id="cdn:17"))
    other = post(usage_body(request_id="cdn:17", units_consumed=1))
    new = post(usage_body(request_id="cdn:18"))

    assert [answer.status_code for answer in (same, other, new)] == [200, 409, 201]
    assert Bill.objects.get().total == Decimal("2.90")


@pytest.mark.parametrize("request_id", ["void cdn:17", "void\tcdn:17", "void\u00a0cdn:17"])
def test_the_wire_can_never_send_the_id_of_a_void(
    request_id: str, usage: UsageRecord, post: Post
) -> None:
    response = post(usage_body(request_id=request_id))

    assert response.status_code == 400
    assert [error["field"] for error in response.json()["errors"]] == ["request_id"]
    void(usage, reason="sent twice", by="carol")
    assert post(usage_body(request_id=request_id)).status_code == 400


def test_a_void_that_there_is_no_room_for_is_refused_in_a_sentence(
    customer: Customer, database_clock: DatabaseClock
) -> None:
    occurred_at = database_clock.set("2026-11-10T12:00:00Z")
    for part, number in product(range(2), range(5)):  # 5 fill more than half a row
        fact = FactFactory.build(
            request_id=f"{part}:{number}",
            units=Decimal("999999999999.999999"),
            price_per_unit=Decimal(0),
            occurred_at=occurred_at,
        )
        record([fact], reported_by_id=None)
        if number == 4:
            database_clock.set(f"2026-11-10T12:00:0{part + 1}Z")
            assert close(Bill.objects.open().get(), by="Sam")
    *most, last = UsageRecord.objects.order_by("pk")
    for usage in most:
        void(usage, reason="sent twice", by="carol")

    if connection.vendor == "sqlite":
        with pytest.raises(VoidRefused, match="exceed what the database can hold exactly"):
            void(last, reason="sent twice", by="carol")
        assert last.void_record is None
    else:
        void(last, reason="sent twice", by="carol")
        assert DailyUsage.objects.get(bill__closed_at=None).units == Decimal(
            "-9999999999999.999990"
        )
