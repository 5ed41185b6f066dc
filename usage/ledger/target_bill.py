"""Which bill a fact belongs on, by the rules of bills: pure functions, no SQL.

`docs/decisions.md` gives the rules. "Now" is the database's clock, and all instants are aware.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from usage.ledger.facts import Fact, Refused
from usage.periods import (
    CLOCK_SKEW,
    LONGEST_LATENESS,
    is_open_to_usage,
    month_bounds,
    month_of,
    next_month,
)

# Every month that may be open to usage began within this, beside the days of grace.
TWO_MONTHS_IN_DAYS = 62


class ExistingBill(NamedTuple):
    """A stored bill, as far as recording needs it."""

    id: int
    month: dt.date
    period_start: dt.datetime
    period_end: dt.datetime
    is_open: bool


class MissingBill(NamedTuple):
    """A bill to open before the fact can be recorded."""

    customer_id: int
    month: dt.date
    period_start: dt.datetime
    period_end: dt.datetime


UNKNOWN_CUSTOMER = Refused(
    "customer_id",
    "unknown_customer",
    "There is no customer with this id. Check it, or ask billing to add the customer; then send the"
    " same request_id again.",
)
IN_THE_FUTURE = Refused(
    "occurred_at",
    "in_the_future",
    "The usage occurred more than 5 minutes ahead of the service's clock. Check your clock, and"
    " that a time that ends with Z is in UTC.",
)
TOO_LONG_AGO = Refused(
    "occurred_at",
    "too_long_ago",
    "The usage occurred more than 366 days ago. Check occurred_at; usage that is really so old is"
    " billed by hand, so ask billing.",
)


def target_bill(
    fact: Fact, bills: Sequence[ExistingBill] | None, now: dt.datetime
) -> ExistingBill | MissingBill | Refused:
    """Return the bill that takes the fact, or why none does.

    `bills` are the bills of the fact's customer that matter now, or None if there is no such
    customer.
    """
    if bills is None:
        return UNKNOWN_CUSTOMER
    occurred_at = fact.occurred_at
    if occurred_at is None:
        occurred_at = now
    elif occurred_at > now + CLOCK_SKEW:
        return IN_THE_FUTURE
    elif occurred_at < now - LONGEST_LATENESS:
        return TOO_LONG_AGO
    for bill in bills:
        # Almost every fact: an open bill's period contains both the usage and now, so the bill's
        # month is the running one, and no time zone needs to be looked at.
        is_current = bill.period_start <= now < bill.period_end
        if bill.is_open and is_current and bill.period_start <= occurred_at < bill.period_end:
            return bill
    month = month_of(occurred_at)
    own = None
    if is_open_to_usage(month, now):
        own = _bill_of_month(month, fact.customer_id, bills)
    return own or current_bill(fact.customer_id, bills, now)


def target_of_void(
    own_bill_id: int, void: Fact, bills: Sequence[ExistingBill] | None, now: dt.datetime
) -> ExistingBill | MissingBill:
    """Return the bill that takes a void: its record's own while that is open, else the current."""
    bills = bills or ()
    for bill in bills:
        if bill.id == own_bill_id and bill.is_open:
            return bill
    return current_bill(void.customer_id, bills, now)


def current_bill(
    customer_id: int, bills: Sequence[ExistingBill], now: dt.datetime
) -> ExistingBill | MissingBill:
    """Return the customer's open bill for the month that contains now, or the one to open."""
    month = month_of(now)
    while (bill := _bill_of_month(month, customer_id, bills)) is None:
        month = next_month(month)  # the clock was set back after the whole month had been closed
    return bill


def _bill_of_month(
    month: dt.date, customer_id: int, bills: Iterable[ExistingBill]
) -> ExistingBill | MissingBill | None:
    """Return the open bill for the month, or the one to open for the part of it left, if any."""
    start, end = month_bounds(month)
    for bill in bills:
        if bill.month == month and bill.is_open:
            return bill
        if bill.month == month:
            start = max(start, bill.period_end)
    return MissingBill(customer_id, month, start, end) if start < end else None
