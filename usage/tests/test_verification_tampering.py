"""Whatever is changed behind the service's back, `Verification` names the bill and the amount."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, transaction

from usage.database import triggers
from usage.money import plain
from usage.tests.billed import Bills, make_bills, use
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory
from usage.verification import Verification

pytestmark = pytest.mark.django_db


@pytest.fixture
def bills(db: None, database_clock: DatabaseClock) -> Bills:
    return make_bills(database_clock)


@pytest.fixture
def behind_its_back(bills: Bills) -> Iterator[Any]:
    """Run SQL that neither guards, foreign keys nor these checks see."""

    def run(sql: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(sql.format(**bills, **_SCALES[connection.vendor]))

    if connection.vendor == "sqlite":
        triggers.remove(connection)
        run("PRAGMA ignore_check_constraints = ON")
    else:
        run("SET CONSTRAINTS ALL IMMEDIATE")  # or tables with rows just made could not be altered
        for table, check in _CHECKS:
            run(f"ALTER TABLE {table} DROP CONSTRAINT {check}")
        run("SET LOCAL session_replication_role = replica")
    yield run
    if connection.vendor == "sqlite":
        run("PRAGMA ignore_check_constraints = OFF")
    transaction.set_rollback(True)  # or the test's end would find the broken foreign keys


_CHECKS = (
    ("usage_bill", "bill_closed_with_name"),
    ("usage_bill", "bill_closed_with_total"),
    ("usage_usagerecord", "record_id_printable_or_void"),
    ("usage_usagerecord", "record_occurred_in_time"),
    ("usage_usagerecord", "record_units_signed"),
    ("usage_usagerecord", "record_void_with_reason"),
)
# Decimals are scaled whole numbers on SQLite.
_SCALES = {
    "sqlite": {"one": 10**6, "price": 10**12, "money": 10**4},
    "postgresql": {"one": 1, "price": 1, "money": 1},
}
_RECORD_COLUMNS = (
    "customer_id, bill_id, service, units, price_per_unit, occurred_at, recorded_at, late,"
    " void_reason, voided_by"
)
_DAILY_COLUMNS = "customer_id, bill_id, service, price_per_unit, slot, units, records"
_NEW_DAY = "bill_id = {new} AND service = 'Database Hosting' AND day = '2026-11-10'"

TAMPERINGS = {
    "units of a record": (
        "UPDATE usage_usagerecord SET units = units + 1 * {one} WHERE request_id = 'new:1'",
        ["new I5 -1 -0.05", "new I5 0 -0.05"],
    ),
    "units of a record on a closed bill": (
        "UPDATE usage_usagerecord SET units = units + 1 * {one} WHERE request_id = 'old:1'",
        ["old I5 -1 -0.05", "old I5 0 -0.05"],
    ),
    "price of a record": (
        "UPDATE usage_usagerecord SET price_per_unit = 1 * {price} WHERE request_id = 'new:1'",
        ["new I5 3 0.15", "new I5 -3 -3", "new I5 0 -2.85"],
    ),
    "service of a record": (
        "UPDATE usage_usagerecord SET service = 'Zürich' WHERE request_id = 'new:1'",
        ["new I5 3 0.15", "new I5 -3 -0.15"],
    ),
    "day of a record": (
        (
            "UPDATE usage_usagerecord SET occurred_at = '2026-11-09 23:59:59.999'"
            " WHERE request_id = 'new:1'"
        ),
        ["new I5 -3 -0.15", "new I5 3 0.15"],
    ),
    "bill of a record": (
        "UPDATE usage_usagerecord SET bill_id = {bob} WHERE request_id = 'new:1'",
        ["new I5 3 0.15", "new I5 0 0.15", "bob I5 -3 -0.15", "bob I5 0 -0.15", "bob I8 3 0.15"],
    ),
    "bill of a record, to none": (
        "UPDATE usage_usagerecord SET bill_id = 987654 WHERE request_id = 'new:1'",
        ["new I5 3 0.15", "new I5 0 0.15", "other I8 3 0.15"],
    ),
    "customer of a record": (
        "UPDATE usage_usagerecord SET customer_id = 456 WHERE request_id = 'new:1'",
        ["new I8 3 0.15"],
    ),
    "late, of usage in time": (
        "UPDATE usage_usagerecord SET late = NOT late WHERE request_id = 'new:1'",
        ["new late 3 0.15"],
    ),
    "late, of late usage": (
        "UPDATE usage_usagerecord SET late = NOT late WHERE request_id = 'late'",
        ["new late 5 0.25"],
    ),
    "time of a record, to the end of its month": (
        "UPDATE usage_usagerecord SET occurred_at = '2026-12-01 00:00:00' WHERE request_id = 'bob'",
        ["bob I5 1 2", "bob I5 -1 -2", "bob month 1 2"],
    ),
    "recorded after the close": (
        (
            "UPDATE usage_usagerecord SET recorded_at = '2026-11-05 12:00:00.001'"
            " WHERE request_id = 'old:1'"
        ),
        ["old I6 58 2.9"],
    ),
    "record deleted": (
        "DELETE FROM usage_usagerecord WHERE request_id = 'new:1'",
        ["new I5 3 0.15", "new I5 0 0.15"],
    ),
    "voided record deleted": (
        "DELETE FROM usage_usagerecord WHERE request_id = 'new:2'",
        ["new I5 7 0.14", "new I5 0 0.14", "new void -7 -0.14"],
    ),
    "record inserted": (
        (
            f"INSERT INTO usage_usagerecord (request_id, {_RECORD_COLUMNS})"
            f" SELECT 'ghost', {_RECORD_COLUMNS} FROM usage_usagerecord WHERE request_id = 'old:1'"
        ),
        ["old I5 -58 -2.9", "old I5 0 -2.9"],
    ),
    "units of daily usage": (
        f"UPDATE usage_dailyusage SET units = units + 1 * {{one}} WHERE {_NEW_DAY}",
        ["new I5 1 0.05", "new I5 0 0.05"],
    ),
    "count of daily usage": (
        f"UPDATE usage_dailyusage SET records = records + 1 WHERE {_NEW_DAY}",
        ["new I5 0 0"],
    ),
    "day of daily usage": (
        f"UPDATE usage_dailyusage SET day = '2026-11-11' WHERE {_NEW_DAY}",
        ["new I5 -3 -0.15", "new I5 3 0.15"],
    ),
    "customer of daily usage": (
        f"UPDATE usage_dailyusage SET customer_id = 456 WHERE {_NEW_DAY}",
        ["new I8 3 0.15"],
    ),
    "bill of daily usage, to none": (
        f"UPDATE usage_dailyusage SET bill_id = 987654 WHERE {_NEW_DAY}",
        ["new I5 -3 -0.15", "new I5 0 -0.15", "other I8 3 0.15"],
    ),
    "daily usage deleted": (
        f"DELETE FROM usage_dailyusage WHERE {_NEW_DAY}",
        ["new I5 -3 -0.15", "new I5 0 -0.15"],
    ),
    "daily usage deleted from a closed bill": (
        "DELETE FROM usage_dailyusage WHERE bill_id = {old} AND service = 'Database Hosting'",
        ["old I5 -58 -2.9", "old I5 0 2.9"],
    ),
    "daily usage inserted": (
        (
            f"INSERT INTO usage_dailyusage (day, {_DAILY_COLUMNS})"
            f" SELECT '2026-11-12', {_DAILY_COLUMNS} FROM usage_dailyusage WHERE {_NEW_DAY}"
        ),
        ["new I5 3 0.15", "new I5 0 0.15"],
    ),
    "total of a closed bill": (
        "UPDATE usage_bill SET closed_total = closed_total + {money} WHERE id = {old}",
        ["old I5 0 1", "old I5 0 1"],
    ),
    "total of a closed bill, to none": (
        "UPDATE usage_bill SET closed_total = NULL WHERE id = {old}",
        ["old I5 0 -3.1"],
    ),
    "time of a close, to none": (
        "UPDATE usage_bill SET closed_at = NULL WHERE id = {old}",
        ["old I5 0 0", "old history 0 0"],
    ),
    "state of a closed bill": (
        "UPDATE usage_bill SET closed_at = NULL, closed_total = NULL WHERE id = {old}",
        ["old history 0 0"],
    ),
    "history of a close": (
        "DELETE FROM usage_historyentry WHERE action = 'closed'",
        ["old history 0 0"],
    ),
    "total of an open bill": (
        "UPDATE usage_bill SET closed_total = 5 * {money} WHERE id = {bob}",
        ["bob I5 0 3", "bob I5 0 3", "bob I5 0 3"],
    ),
    "close of an open bill": (
        "UPDATE usage_bill SET closed_at = '2026-12-05 00:00:00' WHERE id = {bob}",
        ["bob I5 0 -2", "bob history 0 0"],
    ),
    "currency of a bill": (
        "UPDATE usage_bill SET currency = 'JPY' WHERE id = {new}",
        ["new currency 0 0"],
    ),
    "currency of a closed bill": (
        "UPDATE usage_bill SET currency = 'JPY' WHERE id = {old}",
        ["old currency 0 0"],
    ),
    "digits of a closed bill": (
        "UPDATE usage_bill SET minor_unit_digits = 0 WHERE id = {old}",
        ["old I5 0 0.1", "old I5 0 0.1"],
    ),
    "currency of a bill, to one that rounds alike": (
        "UPDATE usage_bill SET currency = 'EUR' WHERE id = {bob}",
        ["bob currency 0 0"],
    ),
    "currency of a customer": (
        "UPDATE usage_customer SET currency = 'JPY' WHERE id = 123",
        ["old currency 0 -0.1", "new currency 0 -0.2"],
    ),
    "month and period of a bill, to an earlier one": (
        (
            "UPDATE usage_bill SET month = '2026-10-01', period_start = '2026-10-01 00:00:00',"
            " period_end = '2026-11-01 00:00:00' WHERE id = {bob}"
        ),
        ["bob month 1 2"],
    ),
    "month and period of a closed bill, to an earlier one": (
        (
            "UPDATE usage_bill SET month = '2026-09-01', period_start = '2026-09-01 00:00:00',"
            " period_end = '2026-10-01 00:00:00' WHERE id = {old}"
        ),
        ["old month 10 0.2", "old month 58 2.9"],
    ),
    "month and period of a bill, to a later one": (
        (
            "UPDATE usage_bill SET month = '2026-12-01', period_start = '2026-12-01 00:00:00',"
            " period_end = '2027-01-01 00:00:00' WHERE id = {bob}"
        ),
        ["bob late 1 2", "bob month 1 2"],
    ),
    "month of a bill": (
        "UPDATE usage_bill SET month = '2026-12-01' WHERE id = {new}",
        ["new I7 0 0"],
    ),
    "start of a bill": (
        "UPDATE usage_bill SET period_start = '2026-11-02 00:00:00' WHERE id = {new}",
        ["new I7 0 0"],
    ),
    "end of a bill": (
        "UPDATE usage_bill SET period_end = '2026-11-30 23:00:00' WHERE id = {new}",
        ["new I7 0 0"],
    ),
    "close of a bill": (
        "UPDATE usage_bill SET closed_at = '2026-10-20 11:00:00' WHERE id = {old}",
        ["old history 0 0", "old I7 0 0", "old I6 10 0.2", "old I6 58 2.9"],
    ),
    "customer of a bill": (
        "UPDATE usage_bill SET customer_id = 456 WHERE id = {old}",
        ["old I8 10 0.2", "old I8 58 2.9", "old I8 58 2.9", "old I8 10 0.2"],
    ),
    "bill deleted": ("DELETE FROM usage_bill WHERE id = {bob}", ["bob I8 1 2"]),
    "bill inserted": (
        (
            "INSERT INTO usage_bill (customer_id, month, period_start, period_end, currency)"
            " VALUES (456, '2026-10-01', '2026-10-01 00:00:00', '2026-11-01 00:00:00', 'USD')"
        ),
        ["other I5 0 0"],
    ),
    "units of a void": (
        "UPDATE usage_usagerecord SET units = units + 1 * {one} WHERE request_id = 'void old:2'",
        ["new I5 -1 -0.02", "new I5 0 -0.02", "new void 1 0.02"],
    ),
    "time of a void": (
        (
            "UPDATE usage_usagerecord SET occurred_at = '2026-10-20 12:00:01'"
            " WHERE request_id = 'void old:2'"
        ),
        ["new void 0 0"],
    ),
    "id of a void": (
        "UPDATE usage_usagerecord SET request_id = 'void old:1' WHERE request_id = 'void old:2'",
        ["new void -10 -0.2"],
    ),
    "what a void cancels": (
        "UPDATE usage_usagerecord SET voids_id = 'old:1' WHERE request_id = 'void old:2'",
        ["new void 48 0.96"],
    ),
    "what a void cancels, to none": (
        "UPDATE usage_usagerecord SET voids_id = NULL WHERE request_id = 'void old:2'",
        ["new void -10 -0.2"],
    ),
    "void of usage that is none": (
        "UPDATE usage_usagerecord SET voids_id = 'old:1' WHERE request_id = 'new:1'",
        ["new void 61 3.05"],
    ),
    "void of a void": (
        (
            f"INSERT INTO usage_usagerecord (request_id, voids_id, {_RECORD_COLUMNS})"
            f" SELECT 'void void old:2', request_id, {_RECORD_COLUMNS.replace('units,', '-units,')}"
            " FROM usage_usagerecord WHERE request_id = 'void old:2'"
        ),
        ["new I5 -10 -0.2", "new I5 0 -0.2", "new void 0 0"],
    ),
    "second void of a record": (
        (
            f"INSERT INTO usage_usagerecord (request_id, voids_id, {_RECORD_COLUMNS})"
            f" SELECT 'void once more', voids_id, {_RECORD_COLUMNS} FROM usage_usagerecord"
            " WHERE request_id = 'void old:2'"
        ),
        ["new I5 10 0.2", "new I5 0 0.2", "new void -10 -0.2"],
    ),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_any_tampering_is_found(name: str, bills: Bills, behind_its_back: Any) -> None:
    sql, expected = TAMPERINGS[name]

    behind_its_back(sql)

    assert found(bills) == expected


def found(bills: Bills) -> list[str]:
    """Which bill, which invariant, by how many units and how much money."""
    names: dict[int | None, str] = {pk: name for name, pk in bills.items()}
    return [
        f"{names.get(difference.bill_id, 'other')} {difference.invariant}"
        f" {plain(difference.units)} {plain(difference.amount)}"
        for difference in Verification().differences()
    ]


@pytest.mark.parametrize(
    ("month", "until"), [("2026-10-01", "2026-11-01"), ("2026-12-01", "2027-01-01")]
)
def test_a_bill_with_late_usage_alone_is_found_in_another_month(
    month: str, until: str, bills: Bills, behind_its_back: Any
) -> None:
    CustomerFactory.create(id=789)
    use("late:alone", "1", "2", dt.datetime(2026, 9, 20, tzinfo=dt.UTC), customer_id=789)
    assert found(bills) == []

    behind_its_back(
        f"UPDATE usage_bill SET month = '{month}', period_start = '{month} 00:00:00',"
        f" period_end = '{until} 00:00:00' WHERE customer_id = 789"
    )

    assert found(bills) == ["other month 1 2"]


def test_usage_of_a_months_first_instant_is_not_late(bills: Bills, behind_its_back: Any) -> None:
    use("first", "1", "2", dt.datetime(2026, 11, 1, tzinfo=dt.UTC), customer_id=456)

    behind_its_back("UPDATE usage_usagerecord SET late = NOT late WHERE request_id = 'first'")

    assert found(bills) == ["bob late 1 2"]


@pytest.fixture
def unconstrained(behind_its_back: Any) -> None:
    """Let bills overlap, and two be open for a month."""
    if connection.vendor == "postgresql":
        behind_its_back("ALTER TABLE usage_bill DROP CONSTRAINT bill_periods_apart")
    behind_its_back("DROP INDEX bill_open_once")


def test_bills_that_overlap_are_found(
    bills: Bills, behind_its_back: Any, unconstrained: None
) -> None:
    behind_its_back("UPDATE usage_bill SET period_start = '2026-10-31 23:00:00' WHERE id = {new}")

    off, overlap = map(str, Verification().differences())
    assert off.startswith(f"bill {bills['new']}: I7: its period is 2026-10-31 23:00:00+00:00 to")
    assert off.endswith(": off by -3600.000 s and +0.000 s.")
    assert overlap == (
        f"bill {bills['new']}: I7: its period overlaps bill {bills['old']}'s by 1:00:00."
    )


def test_two_open_bills_of_one_month_are_found(
    bills: Bills, behind_its_back: Any, unconstrained: None
) -> None:
    behind_its_back(
        "INSERT INTO usage_bill (customer_id, month, period_start, period_end, currency)"
        " VALUES (456, '2026-11-01', '2026-11-20 00:00:00', '2026-12-01 00:00:00', 'USD')"
    )

    differences = [str(difference) for difference in Verification().differences()]
    assert f"I7: bill {bills['bob']} is open for its month." in differences[-1]


def test_sums_beyond_64_bits_are_compared_exactly(bills: Bills, behind_its_back: Any) -> None:
    for number in range(12):
        use(f"big:{number}", "999999999999.999999", "0.000000000001", None, customer_id=456)
        if connection.vendor == "sqlite" and number == 8:  # the row is full
            behind_its_back("UPDATE usage_dailyusage SET slot = (slot + 1) % 4")
    assert found(bills) == []

    behind_its_back(
        "UPDATE usage_usagerecord SET units = units - 1 WHERE request_id = 'big:11'"
        if connection.vendor == "sqlite"
        else "UPDATE usage_usagerecord SET units = units - 0.000001 WHERE request_id = 'big:11'"
    )
    assert found(bills) == ["bob I5 0.000001 0.000000000000000001"]
