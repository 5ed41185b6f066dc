"""Possible duplicates: equal facts of one bill that came under different request_ids."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from django.db import transaction
from django.db.models import Q

from usage.attention.findings import PAIRS_KEPT
from usage.models import Bill, PossibleDuplicates, UsageRecord
from usage.money import EXACT, exact_amount, round_amount
from usage.periods import CLOCK_SKEW

_RECORDS_AT_ONCE = 2_000


class _Record(NamedTuple):
    request_id: str
    recorded_at: dt.datetime
    service: str
    price_per_unit: Decimal
    units: Decimal
    occurred_at: dt.datetime
    voids_id: str | None


def find_duplicates(bill: Bill) -> int:
    """Read each record of the bill once and keep its possible duplicates; return the records read.

    Voids and voided records are not duplicates. Memory grows by some 100 bytes for each record.
    """
    voids = UsageRecord.objects.filter(bill=bill, voids__isnull=False)
    voided = set(voids.values_list("voids_id", flat=True))
    seen: set[int] = set()
    found: dict[tuple[str, Decimal], PossibleDuplicates] = {}
    read = 0
    for record in _records(bill):
        read += 1
        if record.voids_id is not None or record.request_id in voided:
            continue
        # Only hashes are kept of a large bill; two facts in 2⁶¹ may share one.
        fact = hash(record[2:6])
        if fact in seen:
            key = record.service, record.price_per_unit
            if key not in found:
                found[key] = PossibleDuplicates(
                    bill=bill,
                    service=record.service,
                    price_per_unit=record.price_per_unit,
                    records=0,
                    amount=Decimal(0),
                    since=record.recorded_at,
                    pairs=[],
                )
            row = found[key]
            row.records += 1
            row.amount = EXACT.add(row.amount, exact_amount(record.units, record.price_per_unit))
            if len(row.pairs) < PAIRS_KEPT:
                row.pairs.append([record.request_id, _first_of(bill, record, voided)])
        seen.add(fact)
    for row in found.values():
        row.amount = round_amount(row.amount, bill.digits)
    with transaction.atomic():
        PossibleDuplicates.objects.filter(bill=bill).delete()
        PossibleDuplicates.objects.bulk_create(found.values())
    return read


def _records(bill: Bill) -> Iterator[_Record]:
    """Yield the bill's records in the order of their recording, a page of keys at a time."""
    records = UsageRecord.objects.filter(bill=bill).order_by("recorded_at", "request_id")
    rows = records.values_list(*_Record._fields)
    after = Q()
    while page := [_Record(*row) for row in rows.filter(after)[:_RECORDS_AT_ONCE]]:
        yield from page
        last = page[-1]
        # The first condition is implied; with it the database finds the start in the index.
        after = Q(recorded_at__gte=last.recorded_at) & (
            Q(recorded_at__gt=last.recorded_at) | Q(request_id__gt=last.request_id)
        )


def _first_of(bill: Bill, record: _Record, voided: set[str]) -> str:
    """Return the id of the first record with the same content that is not voided."""
    same = UsageRecord.objects.filter(
        bill=bill,
        # Nothing is recorded long before it occurs; the index is by recorded_at.
        recorded_at__gte=record.occurred_at - CLOCK_SKEW,
        recorded_at__lte=record.recorded_at,
        service=record.service,
        price_per_unit=record.price_per_unit,
        units=record.units,
        occurred_at=record.occurred_at,
        voids__isnull=True,
    ).order_by("recorded_at", "request_id")
    ids = same.values_list("request_id", flat=True)
    return next(request_id for request_id in ids.iterator() if request_id not in voided)


def twins_of(record: UsageRecord) -> list[str]:
    """Return the ids that the last check named as the same as this record."""
    kept = PossibleDuplicates.objects.filter(
        bill=record.bill_id, service=record.service, price_per_unit=record.price_per_unit
    )
    pairs: dict[str, list[str]] = defaultdict(list)
    for row in kept:
        for second, first in row.pairs:
            pairs[second].append(first)
            pairs[first].append(second)
    return pairs[record.pk]
