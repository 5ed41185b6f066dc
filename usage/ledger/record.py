"""Record facts: each once, on the right bill, or refused by name.

`transact` is the transaction, top to bottom. Each of its steps is a statement of its own, because
each must see the rows that the one before it waited for:

1. take the close lock, so that none of the customers' bills closes before the commit;
2. read the clock, the zone, the last past day and the bills, and open those that are missing;
3. insert the records; one whose id is stored already is passed over;
4. add the inserted records to daily usage;
5. read the ids that the insert passed over, and answer them as replays or conflicts.

`record` runs it alone, or together with requests that arrive at the same time.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import NamedTuple

from django.conf import settings
from django.db import Error, connection, transaction
from django.utils import timezone

from usage.database.transactions import DatabaseUnavailable, Repeat, repeatable
from usage.ledger import slot
from usage.ledger.facts import (
    CloseLockBusy,
    Conflict,
    DailyAddition,
    DailyUsageOverflow,
    Fact,
    Outcome,
    Recorded,
    Refused,
    StoredRecord,
    Voiding,
)
from usage.ledger.group_commit import GroupCommit, LargeRequests
from usage.ledger.statements import STATEMENTS
from usage.ledger.target_bill import ExistingBill, MissingBill, target_bill, target_of_void
from usage.metrics import instruments
from usage.models import Bill, BillingTimeZone
from usage.models.daily_usage import PAST_SLOT
from usage.models.time_zone import confirm_zone
from usage.money import EXACT

# Small requests share transactions with each other, and so do batches of a hundred or so, which
# would hold up the small ones. A larger request runs alone: it gains nothing from company.
_SMALL, _HUNDRED = 20, 128  # facts at most
# Of the 8 seconds that a request has; those of its transaction count from then on.
_large_requests = LargeRequests(patience=3.0)

NO_ROOM = Refused(
    "units_consumed",
    "no_room",
    "The day's units of this service and price would exceed what the database can hold exactly:"
    " ask billing to move the service to PostgreSQL.",
)


class Request(NamedTuple):
    """Facts to record, all of them in one transaction or none."""

    facts: Sequence[Fact]
    reported_by_id: int | None
    voiding: Voiding | None = None  # of the only fact, if that is a void


def record(facts: Sequence[Fact], *, reported_by_id: int | None) -> list[Outcome]:
    """Record facts in one transaction; return what became of each, in their order.

    A fact that is refused, replayed or in conflict stops no other. Raises DatabaseUnavailable
    if it is not known that the transaction was committed: then all of it is stored, or nothing.
    """
    began = time.monotonic()
    request = Request(facts, reported_by_id)
    if len(facts) <= _SMALL:
        _large_requests.small_came()
        return _group_commit.submit(request) or _record_alone(request, began)
    if len(facts) <= _HUNDRED and (outcomes := _group_commit_of_batches.submit(request)):
        return outcomes
    with _large_requests.place():
        return _record_alone(request, time.monotonic())


def _record_together(requests: Sequence[Request]) -> list[list[Outcome]] | None:
    """Record a group of requests in one transaction, or return None: each must run alone.

    The group waits for no close and is not repeated, so that a request which is in trouble, or
    whose customer's bill is being closed, holds up no other.
    """
    if instruments is not None:
        instruments.group_commit_requests.observe(len(requests))
    if len(requests) == 1:
        return [_record_alone(requests[0], time.monotonic())]
    try:
        outcomes = iter(repeatable(lambda: transact(requests, wait=False), attempts=1))
    except (DatabaseUnavailable, Error, DailyUsageOverflow, CloseLockBusy, Repeat):
        return None
    return [list(islice(outcomes, len(request.facts))) for request in requests]


# Seconds. A group of small requests takes a few thousandths, unless a lock is in its way.
_group_commit = GroupCommit(_record_together, patience=0.1, linger=0.005)
# Eight batches have as many facts as the largest request.
_group_commit_of_batches = GroupCommit(_record_together, patience=1.0, linger=0.005, most=8)


def _record_alone(request: Request, began: float) -> list[Outcome]:
    try:
        return repeatable(lambda: transact([request]), began=began)
    except DailyUsageOverflow:
        return repeatable(lambda: _transact_one_by_one(request), began=began)


def _transact_one_by_one(request: Request) -> list[Outcome]:
    """Record each fact in a savepoint, so that those without room in daily usage stop no other."""
    outcomes: list[Outcome] = []
    for fact in request.facts:
        try:
            with transaction.atomic():
                outcomes += transact([request._replace(facts=[fact])])
        except DailyUsageOverflow:
            outcomes.append(NO_ROOM)
    return outcomes


def transact(requests: Sequence[Request], *, wait: bool = True) -> list[Outcome]:
    """Record the facts of all requests in the caller's transaction; return what became of each.

    Unless `wait`, raises CloseLockBusy instead of waiting for a close. Raises Repeat if another
    transaction overtook the first reads, and DailyUsageOverflow on SQLite.
    """
    facts = [fact for request in requests for fact in request.facts]
    keys = [request.reported_by_id for request in requests for _ in request.facts]
    voiding = requests[0].voiding
    customer_ids = {fact.customer_id for fact in facts}
    with connection.cursor() as cursor:
        sql = STATEMENTS[connection.vendor](cursor)
        asked = time.perf_counter()
        sql.take_close_lock(customer_ids, wait=wait)
        if instruments is not None:
            instruments.close_lock_seconds.labels("record").observe(time.perf_counter() - asked)

        now, zone, past_until, bills = sql.accounts(customer_ids)
        if zone != settings.TIME_ZONE:
            confirm_zone(zone)  # another name of it will do
        target = partial(target_of_void, voiding.bill_id) if voiding else target_bill
        targets = [target(fact, bills.get(fact.customer_id), now) for fact in facts]
        # Stored ids are answered first: only an id that is not stored is refused, or worth a new
        # bill. For a fact that has an open bill the insert below finds out.
        unsure = [
            fact.request_id
            for fact, target in zip(facts, targets, strict=True)
            if not isinstance(target, ExistingBill)
        ]
        stored = sql.stored(unsure) if unsure else {}
        new, refused = _new_facts(facts, targets, stored)
        missing = sorted({bill for i in new if isinstance(bill := targets[i], MissingBill)})
        opened: set[int] = set()
        if new and zone is None:
            BillingTimeZone.objects.keep(Bill.objects.all())
        if missing:
            opened = sql.open_bills(missing)
            # Another transaction may have opened some of them first, so read them all again.
            _, _, _, bills = sql.accounts(customer_ids)
            for i in new:
                targets[i] = target(facts[i], bills.get(facts[i].customer_id), now)

        records = {i: _as_record(facts[i], targets[i], now) for i in new}
        inserted: set[str] = set()
        if records:
            # Sorted by id: transactions that insert in different orders deadlock.
            rows = sorted(
                ((row, keys[i]) for i, row in records.items()), key=lambda pair: pair[0].request_id
            )
            inserted = sql.insert_records(rows, voiding)
        created = {i: row for i, row in records.items() if row.request_id in inserted}
        if opened and opened - {row.bill_id for row in created.values()}:
            # Another transaction took the ids meanwhile, and this bill would stay empty.
            raise Repeat("A bill was opened for facts that are stored elsewhere.")
        if created:
            sql.add_to_daily_usage(_daily_additions(created.values(), past_until))

        if len(created) < len(records):
            # A new statement, so it sees the records that the insert waited for and passed over.
            stored |= sql.stored({row.request_id for row in records.values()} - inserted)
    stored |= {row.request_id: row for row in created.values()}
    return [
        Recorded(created[i], replayed=False)
        if i in created
        else refused.get(i) or _compare(fact, stored[fact.request_id])
        for i, fact in enumerate(facts)
    ]


def _new_facts(
    facts: Sequence[Fact],
    targets: Sequence[ExistingBill | MissingBill | Refused],
    stored: dict[str, StoredRecord],
) -> tuple[list[int], dict[int, Refused]]:
    """Return the first acceptable fact of each new id, and the refused ones, by position."""
    new: dict[str, int] = {}
    refused: dict[int, Refused] = {}
    for i, (fact, target) in enumerate(zip(facts, targets, strict=True)):
        request_id = fact.request_id
        if request_id in stored or request_id in new:
            continue  # a replay or a conflict
        if isinstance(target, Refused):
            refused[i] = target
        else:
            new[request_id] = i
    return list(new.values()), refused


def _as_record(
    fact: Fact, bill: ExistingBill | MissingBill | Refused, now: dt.datetime
) -> StoredRecord:
    if not isinstance(bill, ExistingBill):
        raise Repeat("The bill that was to be opened is not there.")
    request_id, customer_id, service, units, price, occurred_at = fact
    bill_id, month, period_start, _, _ = bill
    occurred_at = occurred_at or now
    late = occurred_at < period_start
    return StoredRecord(
        request_id, customer_id, service, units, price, occurred_at, now, late, bill_id, month
    )


def _daily_additions(records: Iterable[StoredRecord], past_until: dt.date) -> list[DailyAddition]:
    """Return what records add to daily usage, one addition for each row of it.

    Sorted by the row's key, so that no two transactions wait for each other's rows.
    """
    zone = timezone.get_default_timezone()
    days: dict[dt.datetime, dt.date] = {}  # most records occurred when they are recorded
    sums: dict[tuple[int, str, Decimal, dt.date, int], tuple[Decimal, int]] = {}
    for row in records:
        _, customer_id, service, units, price, occurred_at, _, _, bill_id, _ = row
        if (day := days.get(occurred_at)) is None:
            day = days[occurred_at] = occurred_at.astimezone(zone).date()
        key = bill_id, service, price, day, customer_id
        if others := sums.get(key):
            sums[key] = EXACT.add(others[0], units), others[1] + 1
        else:
            sums[key] = units, 1
    own_slot = slot.process_number() % PAST_SLOT
    additions = []
    for (bill_id, service, price, day, customer_id), (units, count) in sorted(sums.items()):
        row_slot = own_slot if day > past_until else PAST_SLOT
        additions.append(
            DailyAddition(customer_id, bill_id, service, price, day, row_slot, units, count)
        )
    return additions


def _compare(fact: Fact, stored: StoredRecord) -> Outcome:
    """Answer a fact whose id is stored: a replay of the same content, or a conflict."""
    differences = [
        name
        for name, given, kept in (
            ("customer_id", fact.customer_id, stored.customer_id),
            ("service", fact.service, stored.service),
            ("units_consumed", fact.units, stored.units),
            ("price_per_unit", fact.price_per_unit, stored.price_per_unit),
            ("occurred_at", fact.occurred_at or stored.occurred_at, stored.occurred_at),
        )
        if given != kept
    ]
    return Conflict(differences) if differences else Recorded(stored, replayed=True)
