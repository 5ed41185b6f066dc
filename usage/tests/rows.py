"""Rows that every constraint admits, but for the changes that a test makes."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

from django.db import models

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
    UsageCheck,
    UsageRecord,
)

NOW = dt.datetime(2026, 11, 10, 12, tzinfo=dt.UTC)
DIGEST = "0" * 64
OF_A_BILL = {UsageRecord, DailyUsage, HistoryEntry, Hold, PossibleDuplicates}
OF_A_KEY = {Traffic, Refusal}


def valid(model: type[models.Model], **changes: Any) -> dict[str, Any]:
    """Return the values of a row that every constraint admits, but for the changes."""
    values: dict[type[models.Model], dict[str, Any]] = {
        Customer: {"id": 1, "name": "Carol", "currency": "USD"},
        ApiKey: {"name": "cdn", "prefix": "0" * 8, "digest": DIGEST},
        Bill: {
            "customer_id": 123,
            "month": dt.date(2026, 11, 1),
            "period_start": dt.datetime(2026, 11, 1, tzinfo=dt.UTC),
            "period_end": dt.datetime(2026, 12, 1, tzinfo=dt.UTC),
            "currency": "USD",
        },
        UsageRecord: {
            "request_id": "cdn:17",
            "customer_id": 123,
            "service": "CDN Storage",
            "units": Decimal(1),
            "price_per_unit": Decimal(1),
            "occurred_at": NOW,
            "recorded_at": NOW,
        },
        DailyUsage: {
            "customer_id": 123,
            "service": "CDN Storage",
            "price_per_unit": Decimal(1),
            "day": NOW.date(),
            "slot": 0,
            "units": Decimal(1),
            "records": 1,
        },
        Change: {"action": "added", "actor": "carol", "at": NOW, "customer_id": 123},
        CommandRun: {"command": "close_bills", "ended_at": NOW, "exit_status": 0, "count": 0},
        HistoryEntry: {"action": "closed", "actor": "carol", "reason": "", "at": NOW},
        Traffic: {"day": NOW.date()},
        BillingTimeZone: {"id": 1, "name": "UTC"},
        PastDays: {"id": 1, "until": NOW.date(), "summed_until": NOW.date()},
        Hold: {"reason": "in dispute", "by": "carol", "at": NOW},
        PossibleDuplicates: {
            "service": "CDN Storage",
            "price_per_unit": Decimal(1),
            "records": 1,
            "amount": Decimal(1),
            "since": NOW,
            "pairs": [],
        },
        AcceptedDuplicates: {
            "customer_id": 123,
            "service": "CDN Storage",
            "reason": "they repeat",
            "by": "carol",
            "at": NOW,
        },
        UsageCheck: {
            "finished_at": NOW,
            "bills": 1,
            "blocking": 0,
            "informing": 0,
            "flagged": [],
        },
        Refusal: {"at": NOW, "status": 400, "code": "invalid_json", "detail": "It is not JSON."},
    }
    return values[model] | changes


def insert(model: type[models.Model], **changes: Any) -> None:
    """Send a row to the database, past what models and their managers refuse."""
    if model in OF_A_BILL:
        changes["bill_id"] = Bill.objects.values_list("pk", flat=True).get()
    if model in OF_A_KEY:
        changes["api_key_id"] = ApiKey.objects.get_or_create(**valid(ApiKey))[0].pk
    rows: models.QuerySet[Any] = models.QuerySet(model)
    rows.bulk_create([model(**valid(model, **changes))])
