"""Add up past days, so that the first page need not add up two months of daily usage anew.

A day becomes past a day after its end. From then on usage for it goes to rows of daily usage of
their own, so that the other rows, of which there are many, do not change any more: their sums are
kept, and whoever reads them adds up the few rows that are left.

This is an optimisation: without the sums, the page adds up everything. At 2.4 million rows they
spare its first visitor two seconds of PostgreSQL's processor time, and 4.5 on SQLite.
`make bench` measures that visit with them.
"""

from __future__ import annotations

import datetime as dt
from functools import partial

from django.db import connection

from usage.database.transactions import group_in_index_order, repeatable, snapshot
from usage.ledger.postgresql import CLOSE_LOCKS
from usage.ledger.statements import STATEMENTS
from usage.models import DailyUsage, PastDays
from usage.periods import day_of

# Most usage of a day has come when the next one ends.
_DAYS_KEPT_OPEN = 2


def add_up(now: dt.datetime) -> None:
    """Keep the sums of all days that are past; does nothing if they are kept already."""
    until = day_of(now) - dt.timedelta(days=_DAYS_KEPT_OPEN)
    if PastDays.objects.filter(summed_until__gte=until).exists():
        return
    repeatable(partial(PastDays.objects.begin, until))
    # Whoever read an earlier day holds a close lock until its commit.
    for lock in range(CLOSE_LOCKS):
        repeatable(partial(_wait_for_writers, lock))
    with snapshot():
        amounts = list(DailyUsage.objects.past(until).amount_sums())
        group_in_index_order()
        lines = list(DailyUsage.objects.past(until).line_sums())
    repeatable(partial(PastDays.objects.keep, until, lines=lines, amounts=amounts))


def _wait_for_writers(lock: int) -> None:
    with connection.cursor() as cursor:
        STATEMENTS[connection.vendor](cursor).take_close_lock([lock], exclusive=True)
