"""The write path: facts come in, each is recorded once on the right bill, or refused by name.

One transaction, each statement of its own because each must see what the one before it waited
for: the gate that holds off closing, the open bills, the records, the fold into daily usage.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from itertools import islice
from threading import BoundedSemaphore
from typing import NamedTuple, cast

from django.db import Error, connection

from usage.database.transactions import (
    DatabaseUnavailable,
    GateBusy,
    Repeat,
    enter_gate,
    repeatable,
)
from usage.ledger.facts import Conflict, Fact, Outcome, Recorded, Refused, StoredRecord
from usage.ledger.group_commit import Rides, turn
from usage.ledger.statements import (
    MOST_UNITS,
    BillRow,
    Fold,
    FoldOverflow,
    NewBill,
    SQLiteStatements,
    Statements,
    Void,
    statements,
    worker_slot,
)
from usage.money import EXACT
from usage.periods import (
    CLOCK_SKEW,
    LONGEST_LATENESS,
    day_of,
    is_open_to_usage,
    month_bounds,
    month_of,
    next_month,
)

# Callers with more go by themselves, few at a time: more would only wait for each other's rows.
_MOST_FACTS_TO_RIDE = 20
_LARGE_AT_A_TIME = 2
# Seconds; a ride takes a few thousandths, unless a lock is in its way.
_PATIENCE, _STOP, _LARGE_PATIENCE = 0.1, 0.005, 1.0


class Call(NamedTuple):
    """What one caller wants recorded, all of it or nothing."""

    facts: Sequence[Fact]
    reported_by_id: int | None
    void: Void = Void()
    own_bill_id: int | None = None  # of the record that a void cancels


def record(facts: Sequence[Fact], *, reported_by_id: int | None) -> list[Outcome]:
    """Record facts, all in one transaction; return what became of each, in their order.

    A fact that is refused, replayed or in conflict stops no other. Raises DatabaseUnavailable
    if the transaction did not go through, as far as anybody knows; then none is stored, or all.
    """
    began = time.monotonic()
    call = Call(facts, reported_by_id)
    if len(facts) > _MOST_FACTS_TO_RIDE:
        with turn(_large, patience=_LARGE_PATIENCE):
            return _record(call, began)
    return _rides.take(call) or _record(call, began)


def _record(call: Call, began: float) -> list[Outcome]:
    try:
        return repeatable(lambda: attempt([call]), began=began)
    except FoldOverflow:
        return repeatable(lambda: attempt([call], mind_room=True), began=began)


def attempt(calls: Sequence[Call], *, mind_room: bool = False, wait: bool = True) -> list[Outcome]:
    """Run the transaction once, inside the caller's."""
    facts = [fact for call in calls for fact in call.facts]
    keys = [call.reported_by_id for call in calls for _ in call.facts]
    enter_gate((fact.customer_id for fact in facts), wait=wait)
    return _Attempt(statements(connection), calls[0], keys, mind_room=mind_room).run(facts)


def _ride(calls: Sequence[Call]) -> list[list[Outcome]] | None:
    """Record what several callers bring in one transaction, which waits for nobody's closing.

    If anything is in its way they go alone, and each meets what is in its own way.
    """
    if len(calls) == 1:
        return [_record(calls[0], time.monotonic())]
    try:
        outcomes = iter(repeatable(lambda: attempt(calls, wait=False), attempts=1))
    except (DatabaseUnavailable, Error, FoldOverflow, GateBusy, Repeat):
        return None
    return [list(islice(outcomes, len(call.facts))) for call in calls]


_rides = Rides(_ride, patience=_PATIENCE, stop=_STOP)
_large = BoundedSemaphore(_LARGE_AT_A_TIME)


Place = BillRow | NewBill | Refused

_UNKNOWN_CUSTOMER = Refused(
    "customer_id",
    "unknown_customer",
    "There is no customer with this id: check the id, or ask billing to add the customer.",
)
_IN_THE_FUTURE = Refused(
    "occurred_at",
    "in_the_future",
    "The usage occurred more than 5 minutes ahead of the service's clock: check yours.",
)
_TOO_LONG_AGO = Refused(
    "occurred_at",
    "too_long_ago",
    "The usage occurred more than 366 days ago: ask billing to correct the bill by hand.",
)
_NO_ROOM = Refused(
    "units_consumed",
    "no_room",
    "The day's units of this service and price would exceed what the database can hold exactly:"
    " ask billing to move the service to PostgreSQL.",
)


class _Attempt:
    """One run of the transaction, inside the gate."""

    def __init__(
        self, sql: Statements, call: Call, keys: Sequence[int | None], *, mind_room: bool
    ) -> None:
        self.sql = sql
        self.void = call.void
        self.own_bill_id = call.own_bill_id
        self.keys = keys  # the id of the API key that each fact came by
        self.mind_room = mind_room
        self.now: dt.datetime
        self.month: dt.date
        self.accounts: dict[int, list[BillRow]]
        self.own_months: dict[tuple[int, dt.date], BillRow | NewBill | None] = {}
        self.opened: set[int] = set()

    def run(self, facts: Sequence[Fact]) -> list[Outcome]:
        self.now, self.accounts = self.sql.accounts({fact.customer_id for fact in facts})
        self.month = month_of(self.now)
        places = [self._place(fact) for fact in facts]
        # Stored ids are answered first: only others are refused, or worth a new bill.
        stored = self._stored(
            fact.request_id
            for fact, place in zip(facts, places, strict=True)
            if self.mind_room or not isinstance(place, BillRow)
        )
        chosen, refusals = _choose(facts, places, stored)
        records = self._assign(
            {position: (facts[position], places[position]) for position in chosen}
        )
        if self.mind_room:
            refusals |= self._take_out_overflows(records)
        inserted = self._insert(records)
        stored |= self._stored({record.request_id for record in records.values()} - inserted)
        created = {at: record for at, record in records.items() if record.request_id in inserted}
        known = stored | {record.request_id: record for record in created.values()}
        return [
            refusals.get(position)
            or (Recorded(created[position], replayed=False) if position in created else None)
            or _compare(fact, known.get(fact.request_id))
            for position, fact in enumerate(facts)
        ]

    def _place(self, fact: Fact) -> Place:
        """Say where a fact belongs by the rules of bills."""
        bills = self.accounts.get(fact.customer_id)
        if bills is None:
            return _UNKNOWN_CUSTOMER
        if self.own_bill_id is not None:
            own = (bill for bill in bills if bill.is_open and bill.id == self.own_bill_id)
            return next(own, None) or self._current_bill(fact.customer_id)
        month = self.month
        if fact.occurred_at is not None:
            if fact.occurred_at > self.now + CLOCK_SKEW:
                return _IN_THE_FUTURE
            if fact.occurred_at < self.now - LONGEST_LATENESS:
                return _TOO_LONG_AGO
            month = month_of(fact.occurred_at)
        is_open = month == self.month or is_open_to_usage(month, self.now)
        place = self._own_month(fact.customer_id, month) if is_open else None
        return place or self._current_bill(fact.customer_id)

    def _own_month(self, customer_id: int, month: dt.date) -> BillRow | NewBill | None:
        key = customer_id, month
        if key not in self.own_months:
            self.own_months[key] = _bill_of(month, customer_id, self.accounts[customer_id])
        return self.own_months[key]

    def _current_bill(self, customer_id: int) -> BillRow | NewBill:
        month = self.month
        while (place := self._own_month(customer_id, month)) is None:
            month = next_month(month)  # the clock was set back after the month had been closed
        return place

    def _stored(self, request_ids: Iterable[str]) -> dict[str, StoredRecord]:
        asked = list(request_ids)
        return self.sql.stored(asked) if asked else {}

    def _assign(self, chosen: Mapping[int, tuple[Fact, Place]]) -> dict[int, StoredRecord]:
        """Return the records to insert, by position, on bills that exist."""
        missing = {place for _, place in chosen.values() if isinstance(place, NewBill)}
        if missing:
            self.opened = self.sql.open_bills(sorted(missing))
            _, self.accounts = self.sql.accounts({fact.customer_id for fact, _ in chosen.values()})
            self.own_months.clear()
        return {
            position: self._record(fact, self._place(fact) if isinstance(place, NewBill) else place)
            for position, (fact, place) in chosen.items()
        }

    def _record(self, fact: Fact, bill: Place) -> StoredRecord:
        if not isinstance(bill, BillRow):
            raise Repeat("The bill that was to be opened is not there.")
        occurred_at = fact.occurred_at or self.now
        late = occurred_at < bill.period_start
        return StoredRecord(*fact[:5], occurred_at, self.now, late, bill.id, bill.month)

    def _insert(self, records: Mapping[int, StoredRecord]) -> set[str]:
        """Insert the records whose ids are still new and fold those in; return the ids."""
        if not records:
            return set()
        rows = sorted((record, self.keys[at]) for at, record in records.items())
        inserted = self.sql.insert_records(rows, self.void)
        stored = [record for record in records.values() if record.request_id in inserted]
        if self.opened - {record.bill_id for record in stored}:
            # Another transaction took the id meanwhile, and this bill would stay empty.
            raise Repeat("A bill was opened for a fact that is stored elsewhere.")
        if stored:
            self.sql.fold(_folds(stored))
        return inserted

    def _take_out_overflows(self, records: dict[int, StoredRecord]) -> dict[int, Refused]:
        """Take out of `records` those that daily usage has no room for; return their refusals."""
        refusals = {}
        sql = cast("SQLiteStatements", self.sql)  # PostgreSQL has room for all
        units = sql.units(_folds(records.values()))
        for position, record in list(records.items()):
            (fold,) = _folds([record])
            total = EXACT.add(units.get(fold.key, Decimal(0)), fold.units)
            if abs(total) > MOST_UNITS:
                refusals[position] = _NO_ROOM
                del records[position]
            else:
                units[fold.key] = total
        return refusals


def _choose(
    facts: Sequence[Fact], places: Sequence[Place], stored: Mapping[str, StoredRecord]
) -> tuple[list[int], dict[int, Refused]]:
    """Pick the first acceptable fact of each new id; refuse those that are not; by position."""
    chosen: dict[str, int] = {}
    refusals: dict[int, Refused] = {}
    for position, (fact, place) in enumerate(zip(facts, places, strict=True)):
        if fact.request_id in stored or fact.request_id in chosen:
            continue  # a replay or a conflict
        if isinstance(place, Refused):
            refusals[position] = place
        else:
            chosen[fact.request_id] = position
    return list(chosen.values()), refusals


def _bill_of(
    month: dt.date, customer_id: int, bills: Sequence[BillRow]
) -> BillRow | NewBill | None:
    """Return the customer's open bill for the month, or the one to open for what is left of it."""
    for bill in bills:
        if bill.month == month and bill.is_open:
            return bill
    start, end = bounds = month_bounds(month)
    for bill in bills:
        # Bills of another month reach into this one only if they were opened in another time zone.
        if bill.month == month or bill.period_start < bounds.start < bill.period_end:
            start = max(start, bill.period_end)
        elif bounds.start < bill.period_start:
            end = min(end, bill.period_start)
    return NewBill(customer_id, month, start, end) if start < end else None


def _folds(records: Iterable[StoredRecord]) -> list[Fold]:
    """Return what records add to daily usage, one for each row there, sorted by its key."""
    sums: dict[tuple[int, int, str, Decimal, dt.date], tuple[Decimal, int]] = {}
    day = cache(day_of)
    for record in records:
        key = (
            record.customer_id,
            record.bill_id,
            record.service,
            record.price_per_unit,
            day(record.occurred_at),
        )
        units, count = sums.get(key, (Decimal(0), 0))
        sums[key] = EXACT.add(units, record.units), count + 1
    slot = worker_slot()
    return sorted(
        (Fold(*key, slot, units, count) for key, (units, count) in sums.items()),
        key=lambda fold: fold.key,
    )


def _compare(fact: Fact, record: StoredRecord | None) -> Outcome:
    """Answer a fact whose id is stored: the same again, or another one."""
    if record is None:
        return _NO_ROOM  # only the first fact with this id was tried, and refused for that
    differences = [
        name
        for name, said, kept in (
            ("customer_id", fact.customer_id, record.customer_id),
            ("service", fact.service, record.service),
            ("units_consumed", fact.units, record.units),
            ("price_per_unit", fact.price_per_unit, record.price_per_unit),
            ("occurred_at", fact.occurred_at or record.occurred_at, record.occurred_at),
        )
        if said != kept
    ]
    return Conflict(differences) if differences else Recorded(record, replayed=True)
