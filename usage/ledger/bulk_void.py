"""Void many records: in chunks, so that it can stop anywhere and be run again."""

from __future__ import annotations

import datetime as dt
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet, Value
from django.db.models.functions import Concat

from usage.database.transactions import lift_statement_timeout, repeatable
from usage.ledger.facts import Recorded
from usage.ledger.void import checked_reason, void_in_transaction
from usage.models import Bill, HistoryEntry, UsageRecord
from usage.models.base import actor_of
from usage.models.usage_record import VOID_PREFIX
from usage.money import EXACT

# Voids of one transaction; they take about half a second.
CHUNK = 100
EXAMPLES = 10


class Summary(NamedTuple):
    """What would be voided: exact amounts by currency, and for each bill whether it is closed."""

    records: int
    amounts: dict[str, Decimal]
    bills: dict[int, bool]
    examples: list[UsageRecord]

    @property
    def closed_bills(self) -> int:
        return sum(self.bills.values())

    @property
    def open_bills(self) -> int:
        return len(self.bills) - self.closed_bills


class Selection:
    """Records to void: those of a queryset up to an instant that no void cancels yet.

    Records that arrive later change nothing. With `patience` a statement may take as long as it
    needs, on PostgreSQL. With `and_voided` the voided ones are chosen too, to be listed. Those of a
    `customer` are read bill by bill, since no index has them all.
    """

    def __init__(
        self,
        records: QuerySet[Any, Any],
        up_to: dt.datetime,
        *,
        customer: int | None = None,
        patience: bool = False,
        and_voided: bool = False,
    ) -> None:
        void = UsageRecord.objects.filter(pk=Concat(Value(VOID_PREFIX), OuterRef("pk")))
        chosen = records.filter(recorded_at__lte=up_to, voids__isnull=True)
        self.records = (
            (chosen if and_voided else chosen.filter(~Exists(void)))
            .select_related("bill", "customer", "reported_by")
            .order_by("recorded_at", "request_id")
        )
        self.customer = customer
        self.up_to = up_to
        self.patience = patience

    def __str__(self) -> str:
        return f"selection up to {self.up_to:%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"

    def chunks(self, size: int) -> Iterator[list[UsageRecord]]:
        """Yield the records, each bill's in the order of their recording.

        Each chunk may be voided at once.
        """
        parts = [self.records]
        if self.customer is not None:
            bills = Bill.objects.with_unreadable().filter(customer=self.customer)
            ids = bills.order_by("period_start").values_list("pk", flat=True)
            parts = [self.records.filter(bill=bill_id) for bill_id in ids]
        for records in parts:
            after = Q()
            while chunk := self._read(records.filter(after)[:size]):
                yield chunk
                last = chunk[-1]
                # The first condition is implied; with it the database finds the start in an index.
                after = Q(recorded_at__gte=last.recorded_at) & (
                    Q(recorded_at__gt=last.recorded_at) | Q(request_id__gt=last.request_id)
                )

    def _read(self, records: QuerySet[Any, Any]) -> list[UsageRecord]:
        if not self.patience:
            return list(records)
        with transaction.atomic():
            lift_statement_timeout()
            return list(records)


def summary(selections: Iterable[Selection], *, most: float = math.inf) -> Summary:
    """Return what would be voided; it stops once there are more than `most` records."""
    amounts: dict[str, Decimal] = defaultdict(Decimal)
    bills: dict[int, bool] = {}
    examples: list[UsageRecord] = []
    count = 0
    for chunk in (chunk for selection in selections for chunk in selection.chunks(1000)):
        count += len(chunk)
        examples += chunk[: EXAMPLES - len(examples)]
        for record in chunk:
            currency = record.bill.currency
            amounts[currency] = EXACT.add(amounts[currency], record.amount)
            bills[record.bill_id] = record.bill.is_closed
        if count > most:
            break
    return Summary(count, dict(amounts), bills, examples)


def void_all(records: Sequence[UsageRecord], *, reason: str, by: object, run: str) -> int:
    """Cancel each of these records, in one transaction; return how many were not voided before.

    Each void goes where `void` puts it. The history of each bill touched gets one entry for each
    `run`, which describes it. Raises VoidRefused, with nothing changed, for a reason that does not
    fit or a record that cannot be voided, and DatabaseUnavailable.
    """
    actor = actor_of(by)
    reason = checked_reason(reason, actor)
    action = HistoryEntry.Action.BULK_VOIDED

    def work() -> int:
        voided = 0
        bills: dict[int, dt.datetime] = {}
        for record in records:
            outcome = void_in_transaction(record, reason=reason, by=actor)
            if isinstance(outcome, Recorded) and not outcome.replayed:
                voided += 1
                for bill_id in (record.bill_id, outcome.record.bill_id):
                    bills.setdefault(bill_id, outcome.record.recorded_at)
        entries = HistoryEntry.objects.filter(action=action, detail=run, bill__in=list(bills))
        told = set(entries.values_list("bill_id", flat=True))
        for bill_id, at in sorted(bills.items()):
            if bill_id not in told:
                HistoryEntry.objects.keep(
                    action, bill_id=bill_id, by=actor, at=at, reason=reason, detail=run
                )
        return voided

    return repeatable(work)
