"""All figures of the first page are of one instant, whatever is recorded while they are read."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from django.db import connections

from usage.admin import figures
from usage.database.transactions import database_now
from usage.ledger.record import record
from usage.tests.books import Books
from usage.tests.factories import FactFactory


def record_one() -> None:
    fact = FactFactory.build(customer_id=1, units=Decimal(1), price_per_unit=Decimal(1))
    record([fact], reported_by_id=None)
    connections.close_all()


def test_what_is_recorded_between_the_statements_is_in_none_of_them(
    own_books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_bills = figures._bills

    def read_after_another_record(months: tuple[dt.date, dt.date]) -> Any:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(record_one).result()
        return read_bills(months)

    record_one()
    monkeypatch.setattr(figures, "_bills", read_after_another_record)

    for recorded in (1, 2):
        found = figures.figures(database_now())
        assert found is not None
        assert [amount.amount for amount in found.amounts] == [recorded]
        assert found.rounded == {"USD": Decimal(recorded)}
