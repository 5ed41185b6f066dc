"""Each rule that a row can hold is held by a constraint: the bad value is sent to the database."""

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from django.apps import apps
from django.core.exceptions import ValidationError
from django.db import DatabaseError, IntegrityError, connection, models, transaction

from usage.models import (
    AcceptedDuplicates,
    ApiKey,
    Bill,
    BillingTimeZone,
    Change,
    CommandRun,
    Customer,
    DailyUsage,
    HistoryEntry,
    Hold,
    PastDays,
    PossibleDuplicates,
    Refusal,
    Traffic,
    UsageRecord,
)
from usage.tests.rows import NOW, OF_A_BILL, insert, valid

pytestmark = pytest.mark.django_db
MINUTE, DAY = dt.timedelta(minutes=1), dt.timedelta(days=1)
MILLISECOND = dt.timedelta(milliseconds=1)


@pytest.fixture
def bill(customer: Customer) -> Bill:
    bill: Bill = Bill.objects.create(**valid(Bill))
    return bill


def as_void(**changes: Any) -> dict[str, Any]:
    return {
        "request_id": "void cdn:17",
        "voids_id": "cdn:17",
        "units": Decimal(-1),
        "void_reason": "sent twice",
        "voided_by": "carol",
        **changes,
    }


NAMED = {"closed_name": "Carol", "closed_reference": ""}
Bad = tuple[type[models.Model], dict[str, Any]]
BAD: dict[str, list[Bad]] = {
    "customer_id_positive": [(Customer, {"id": 0}), (Customer, {"id": -1})],
    "customer_name_given": [(Customer, {"name": ""})],
    "customer_currency_code": [
        (Customer, {"currency": currency}) for currency in ("", "US", "usd", "Usd", "12$")
    ],
    "api_key_name_given": [(ApiKey, {"name": ""})],
    "api_key_digest_is_sha256": [(ApiKey, {"digest": "0" * 63}), (ApiKey, {"digest": ""})],
    "api_key_revoked_after_creation": [
        (ApiKey, {"revoked_at": dt.datetime(2000, 1, 1, tzinfo=dt.UTC)})
    ],
    "bill_period_forward": [
        (Bill, {"period_end": dt.datetime(2026, 11, 1, tzinfo=dt.UTC)}),
    ],
    "bill_month_first_day": [(Bill, {"month": dt.date(2026, 11, day)}) for day in (2, 11, 21, 30)],
    "bill_closed_with_total": [
        (Bill, {"closed_at": NOW, **NAMED}),
        (Bill, {"closed_total": Decimal(1)}),
        (
            Bill,
            {
                "closed_at": dt.datetime(2026, 11, 1, tzinfo=dt.UTC),
                "closed_total": Decimal(1),
                **NAMED,
            },
        ),
    ],
    "bill_closed_with_name": [
        (Bill, {"closed_name": "Carol"}),
        (Bill, {"closed_reference": ""}),
        (Bill, {"closed_at": NOW, "closed_total": Decimal(1)}),
        (Bill, {"closed_at": NOW, "closed_total": Decimal(1), "closed_name": "Carol"}),
    ],
    "record_id_printable_or_void": [
        *(
            (UsageRecord, {"request_id": bad})
            for bad in ("", "a b", "ü", "a\tb", "\x7f", "void x", "void ")
        ),
        (UsageRecord, {"request_id": "x" * 129}),
        (UsageRecord, as_void(request_id="cdn:18")),
        (UsageRecord, as_void(request_id="void cdn:18")),
        (UsageRecord, as_void(request_id="voidcdn:17")),
    ],
    "record_units_signed": [
        (UsageRecord, {"units": Decimal(0)}),
        (UsageRecord, {"units": Decimal(-1)}),
        (UsageRecord, as_void(units=Decimal(1))),
        (UsageRecord, as_void(units=Decimal(0))),
    ],
    "record_price_not_negative": [(UsageRecord, {"price_per_unit": Decimal("-0.000000000001")})],
    "record_amount_below_limit": [
        (UsageRecord, {"units": Decimal(10**7), "price_per_unit": Decimal(10**5) + 1}),
        (
            UsageRecord,
            as_void(units=Decimal(-(10**7)), price_per_unit=Decimal(10**5) + 1),
        ),
        (
            UsageRecord,
            {
                "units": Decimal("999999999999.999999"),
                "price_per_unit": Decimal("999999.999999999999"),
            },
        ),
    ],
    "record_service_given": [
        (UsageRecord, {"service": service}) for service in ("", " a", "a ", "a\x1bb", "x" * 101)
    ],
    "bill_currency_code": [(Bill, {"currency": currency}) for currency in ("", "12$", "usd")],
    "record_occurred_in_time": [
        (UsageRecord, {"occurred_at": NOW + 5 * MINUTE + MILLISECOND}),
        (UsageRecord, {"occurred_at": NOW - 366 * DAY - MILLISECOND}),
    ],
    "record_void_with_reason": [
        (UsageRecord, {"void_reason": "sent twice"}),
        (UsageRecord, {"voided_by": "carol"}),
        (UsageRecord, as_void(void_reason="")),
        (UsageRecord, as_void(voided_by="")),
    ],
    "daily_usage_slot": [(DailyUsage, {"slot": -1}), (DailyUsage, {"slot": 4})],
    "daily_usage_records": [(DailyUsage, {"records": 0}), (DailyUsage, {"records": -1})],
    "history_action_known": [(HistoryEntry, {"action": bad}) for bad in ("", "opened", "CLOSED")],
    "history_actor_given": [(HistoryEntry, {"actor": bad}) for bad in ("", "x" * 151)],
    "history_reason_fits": [(HistoryEntry, {"reason": "x" * 501})],
    "history_void_with_record_and_reason": [
        (HistoryEntry, {"action": "voided", "reason": "sent twice"}),
        (HistoryEntry, {"action": "voided", "record_id": "cdn:17"}),
        (HistoryEntry, {"record_id": "cdn:17"}),
        (HistoryEntry, {"action": "verified", "record_id": "cdn:17", "reason": "sent twice"}),
    ],
    "change_of_one_row": [(Change, {"customer_id": None})],
    "change_action_known": [(Change, {"action": bad}) for bad in ("", "deleted", "ADDED")],
    "change_actor_given": [(Change, {"actor": bad}) for bad in ("", "x" * 151)],
    "daily_usage_price": [(DailyUsage, {"price_per_unit": Decimal(-1)})],
    "bill_minor_unit_digits": [(Bill, {"minor_unit_digits": bad}) for bad in (-1, 5)],
    "hold_reason_and_name_given": [(Hold, {name: ""}) for name in ("reason", "by")],
    "accepted_duplicates_reason_given": [
        (AcceptedDuplicates, {name: ""}) for name in ("reason", "by")
    ],
    "history_reason_given": [
        (HistoryEntry, {"action": action}) for action in ("held", "bulkvoid", "accepted")
    ],
    "command_run_counts": [
        (CommandRun, {"count": -1}),
        (CommandRun, {"exit_status": -1}),
        (CommandRun, {"exit_status": 256}),
    ],
    "billing_time_zone_once": [(BillingTimeZone, {"id": 2})],
    "past_days_once": [(PastDays, {"id": 2})],
    "past_days_summed": [(PastDays, {"summed_until": NOW.date() + DAY})],
    "billing_time_zone_given": [(BillingTimeZone, {"name": ""})],
    "traffic_not_negative": [
        (Traffic, {name: -1}) for name in ("created", "replayed", "conflicting", "refused")
    ],
    "refusal_status": [(Refusal, {"status": status}) for status in (200, 399, 500, 503)],
    "refusal_code": [(Refusal, {"code": code}) for code in ("", "a\nb", "x" * 41)],
    "refusal_detail": [(Refusal, {"detail": text}) for text in ("", "a\x1bb", " a", "x" * 301)],
    "refusal_request_id": [(Refusal, {"request_id": text}) for text in ("a\x7fb", "a ", "x" * 129)],
    "refusal_service": [(Refusal, {"service": text}) for text in ("a\tb", " a", "x" * 101)],
    "refusal_customer_id": [(Refusal, {"customer_id": bad}) for bad in (0, -1)],
}
TWICE: dict[str, Bad] = {
    "bill_period_once": (
        Bill,
        {"closed_at": NOW, "closed_total": Decimal(0), **NAMED},
    ),
    "bill_open_once": (
        Bill,
        {
            "period_start": dt.datetime(2026, 12, 1, tzinfo=dt.UTC),
            "period_end": dt.datetime(2026, 12, 2, tzinfo=dt.UTC),
        },
    ),
    "daily_usage_once": (DailyUsage, {}),
    "history_closed_once": (HistoryEntry, {"actor": "dave"}),
    "traffic_once": (Traffic, {}),
    "possible_duplicates_once": (PossibleDuplicates, {}),
    "accepted_duplicates_once": (AcceptedDuplicates, {"by": "dave"}),
}


def test_each_constraint_has_its_bad_value() -> None:
    constraints = {
        constraint.name
        for model in apps.get_app_config("usage").get_models()
        for constraint in model._meta.constraints
        if not constraint.name.endswith("_readable")  # test_constraints_readable.py
    }
    assert constraints == {*BAD, *TWICE}


def bad_values() -> list[Any]:
    return [
        pytest.param(name, *bad, id=f"{name} {number}")
        for name, values in BAD.items()
        for number, bad in enumerate(values)
    ]


@pytest.mark.no_cover  # other tests measure this code
@pytest.mark.parametrize(("constraint", "model", "changes"), bad_values())
def test_a_bad_value_is_refused_by_its_constraint(
    constraint: str, model: type[models.Model], changes: dict[str, Any], customer: Customer
) -> None:
    if model in OF_A_BILL:
        Bill.objects.create(**valid(Bill))
    if {"voids_id", "record_id"} & changes.keys():
        insert(UsageRecord)

    with pytest.raises(DatabaseError) as error, transaction.atomic():
        insert(model, **changes)

    # PostgreSQL measures text before it looks at constraints.
    assert constraint in str(error.value) or "value too long" in str(error.value)


@pytest.mark.parametrize("name", TWICE)
def test_what_is_there_once_is_not_there_twice(name: str, bill: Bill) -> None:
    model, changes = TWICE[name]
    if model is not Bill:
        insert(model)

    with pytest.raises(IntegrityError) as error, transaction.atomic():
        insert(model, **changes)

    # SQLite names the columns instead.
    columns = {
        "bill_open_once": "customer_id, usage_bill.month",
        "daily_usage_once": "slot",
        "history_closed_once": "usage_historyentry.bill_id",
        "traffic_once": "api_key_id, usage_traffic.day",
        "possible_duplicates_once": "bill_id, usage_possibleduplicates.service",
        "accepted_duplicates_once": "customer_id, usage_acceptedduplicates.service",
    }
    said = str(error.value)
    assert name in said or columns.get(name, "period_start") in said or "never" in said


def test_an_amount_of_exactly_the_limit_is_refused_where_numbers_are_exact(bill: Bill) -> None:
    if connection.vendor == "postgresql":
        with pytest.raises(IntegrityError, match="record_amount_below_limit"):
            insert(UsageRecord, units=Decimal(10**7), price_per_unit=Decimal(10**5))


def test_good_values_are_taken(bill: Bill) -> None:
    for model in (Customer, ApiKey, UsageRecord, DailyUsage, HistoryEntry, Traffic, Refusal):
        insert(model)
    insert(UsageRecord, **as_void())

    insert(UsageRecord, request_id="!" * 64 + "~" * 64, occurred_at=NOW + 5 * MINUTE)
    insert(UsageRecord, request_id="old", occurred_at=NOW - 366 * DAY, service="x" * 100)
    insert(UsageRecord, request_id="free", price_per_unit=Decimal(0), reported_by=None)
    assert UsageRecord.objects.count() == 5
    insert(Refusal, request_id="x" * 128, service="漢" * 100, customer_id=1, detail="x" * 300)


def test_history_may_repeat_but_for_the_closing(bill: Bill) -> None:
    insert(UsageRecord)
    for _ in range(2):
        insert(HistoryEntry, action="verified", reason="x" * 500, actor="y" * 150)
        insert(HistoryEntry, action="voided", record_id="cdn:17", reason="sent twice")
    assert HistoryEntry.objects.count() == 4


def bad_history() -> list[Any]:
    return [value for value in bad_values() if value.values[1] is HistoryEntry]


@pytest.mark.parametrize(("constraint", "model", "changes"), bad_history())
def test_bad_history_is_refused_in_a_sentence(
    constraint: str, model: type[models.Model], changes: dict[str, Any], bill: Bill
) -> None:
    insert(UsageRecord)

    with pytest.raises(ValidationError) as error:
        model(**valid(model, **changes), bill=bill).full_clean()

    assert all(message.endswith(".") for message in error.value.messages)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", 0),
        ("id", 2**63),
        ("name", ""),
        ("name", "x" * 201),
        ("currency", "usd"),
        ("currency", "XXY"),
        ("currency", "XAU"),
        ("currency", "ITL"),
        ("currency", ""),
    ],
)
def test_a_bad_customer_is_refused_in_a_sentence(field: str, value: Any, db: None) -> None:
    with pytest.raises(ValidationError) as error:
        Customer(**valid(Customer, **{field: value})).full_clean()
    assert all(message.endswith(".") for message in error.value.message_dict[field])


def test_a_customer_keeps_a_currency_that_is_refused_for_new_ones(db: None) -> None:
    customer = Customer.objects.create(id=1, name="Carol", currency="XAU")

    customer.name = "Carol C."
    customer.full_clean()

    customer.currency = "XAG"
    with pytest.raises(ValidationError, match="not a currency with a minor unit in ISO 4217"):
        customer.full_clean()


def test_another_currency_is_refused_in_a_sentence_once_there_are_bills(bill: Bill) -> None:
    customer = bill.customer
    customer.full_clean()
    customer.currency = "EUR"
    with pytest.raises(ValidationError, match="has bills in another currency: make a new customer"):
        customer.full_clean()


@pytest.mark.parametrize(
    ("field", "value"),
    [("status", 503), ("code", "a\x1bb"), ("detail", "a\x1bb"), ("request_id", "a\x1bb")],
)
def test_a_bad_refusal_is_refused_in_a_sentence(field: str, value: Any, db: None) -> None:
    api_key = ApiKey.objects.create(**valid(ApiKey))
    with pytest.raises(ValidationError) as error:
        Refusal(**valid(Refusal, api_key=api_key, **{field: value})).full_clean()
    assert all(message.endswith(".") for message in error.value.messages)
