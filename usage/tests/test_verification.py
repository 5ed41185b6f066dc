"""`Verification` computes bills again from their records, and names what differs, by how much."""

import datetime as dt
import io
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from pytest_django import Settings

from usage import guards
from usage.models import Bill, Customer, DailyUsage, UsageRecord
from usage.periods import month_bounds
from usage.recording import record
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory, FactFactory
from usage.verification import Verification
from usage.verification.difference import plain

pytestmark = pytest.mark.django_db
Bills = dict[str, int]


def use(request_id: str, units: str, price: str, occurred_at: Any, **other: Any) -> None:
    fact = FactFactory.build(
        request_id=request_id,
        units=Decimal(units),
        price_per_unit=Decimal(price),
        occurred_at=occurred_at,
        **other,
    )
    record([fact], reported_by_id=None)


@pytest.fixture
def bills(db: None, database_clock: DatabaseClock) -> Bills:
    """Alice's closed and open bills and Bob's, with usage in time, late and voided."""
    CustomerFactory.create(id=123, name="Alice")
    CustomerFactory.create(id=456, name="Bob")
    october = database_clock.set("2026-10-20T12:00:00Z")
    use("old:1", "58", "0.05", october)
    use("old:2", "10", "0.02", october, service="CDN Storage")
    database_clock.set("2026-11-05T12:00:00Z")
    Bill.objects.get().close()
    november = database_clock.set("2026-11-10T12:00:00Z")
    use("new:1", "3", "0.05", november)
    use("new:2", "7", "0.02", november, service="CDN Storage")
    use("late", "5", "0.05", october)
    use("bob", "1", "2", november, customer_id=456)
    for pk in ("old:2", "new:2"):
        UsageRecord.objects.get(pk=pk).void(reason="sent by mistake", by="carol")
    names = {"2026-10 123": "old", "2026-11 123": "new", "2026-11 456": "bob"}
    return {names[f"{bill.month:%Y-%m} {bill.customer_id}"]: bill.pk for bill in Bill.objects.all()}


@pytest.fixture
def behind_its_back(bills: Bills) -> Iterator[Any]:
    """Run SQL that neither guards nor foreign keys see."""

    def run(sql: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(sql.format(**bills, **_SCALES[connection.vendor]))

    if connection.vendor == "sqlite":
        guards.remove(connection)
    else:
        run("SET LOCAL session_replication_role = replica")
    yield run
    transaction.set_rollback(True)  # or the test's end would find the broken foreign keys


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
        ["old I7 0 0", "old I6 10 0.2", "old I6 58 2.9"],
    ),
    "customer of a bill": (
        "UPDATE usage_bill SET customer_id = 456 WHERE id = {old}",
        ["old I8 10 0.2", "old I8 58 2.9", "old I8 58 2.9", "old I8 10 0.2"],
    ),
    "bill deleted": ("DELETE FROM usage_bill WHERE id = {bob}", ["bob I8 1 2"]),
    "bill inserted": (
        (
            "INSERT INTO usage_bill (customer_id, month, period_start, period_end)"
            " VALUES (456, '2026-10-01', '2026-10-01 00:00:00', '2026-11-01 00:00:00')"
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
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_any_tampering_is_found(name: str, bills: Bills, behind_its_back: Any) -> None:
    sql, expected = TAMPERINGS[name]

    behind_its_back(sql)

    assert found(bills) == expected


def found(bills: Bills) -> list[str]:
    """Which bill, which invariant, by how many units and how much money."""
    names = {pk: name for name, pk in bills.items()}
    return [
        f"{names.get(difference.bill_id, 'other')} {difference.invariant}"
        f" {plain(difference.units)} {plain(difference.amount)}"
        for difference in Verification().differences()
    ]


@pytest.fixture
def unconstrained(behind_its_back: Any) -> None:
    """Let bills overlap, and two be open for a month."""
    if connection.vendor == "postgresql":
        behind_its_back("SET CONSTRAINTS ALL IMMEDIATE")
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
        "INSERT INTO usage_bill (customer_id, month, period_start, period_end)"
        " VALUES (456, '2026-11-01', '2026-11-20 00:00:00', '2026-12-01 00:00:00')"
    )

    differences = [str(difference) for difference in Verification().differences()]
    assert f"I7: bill {bills['bob']} is open for its month." in differences[-1]


def test_untouched_bills_differ_in_nothing(bills: Bills) -> None:
    assert found(bills) == []


def test_what_was_read_is_counted(bills: Bills) -> None:
    verification = Verification()

    assert list(verification.differences()) == []
    assert (verification.bills, verification.records) == (3, 8)


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12", "Asia/Kathmandu"])
def test_days_and_months_are_those_of_the_billing_time_zone(
    zone: str, customer: Customer, database_clock: DatabaseClock, settings: Settings
) -> None:
    settings.BILLING_TIME_ZONE = settings.TIME_ZONE = zone
    midnight = month_bounds(dt.date(2026, 11, 1)).start
    moments = [midnight + dt.timedelta(minutes=minutes) for minutes in (-1, 0, 1439, 1440)]
    database_clock.set((midnight + dt.timedelta(days=2)).isoformat())

    for number, moment in enumerate(moments):
        use(f"edge:{number}", "1", "1", moment)

    assert DailyUsage.objects.values_list("day", flat=True).distinct().count() == 3
    assert list(Verification().differences()) == []


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


def test_services_are_compared_in_one_order_whatever_the_database_sorts_by(bills: Bills) -> None:
    for number, service in enumerate(["Z", "a", "é", "É", "-a", "日本", "𐍈", "ﬀ", "A b", "Ab"]):
        use(f"service:{number}", "1", "1", None, service=service)

    assert found(bills) == []


def test_a_currencys_own_digits_count(customer: Customer) -> None:
    CustomerFactory.create(id=1, currency="JPY")
    CustomerFactory.create(id=2, currency="KWD")
    for customer_id in (1, 2):
        use(f"in:{customer_id}", "1", "1.5015", None, customer_id=customer_id)
        bill = Bill.objects.get(customer=customer_id)
        assert bill.close()

    assert list(Verification().differences()) == []


# The command


def verify_bills(*arguments: str) -> str:
    output = io.StringIO()
    call_command("verify_bills", *arguments, stdout=output)
    return output.getvalue()


def test_the_command_says_what_it_verified(bills: Bills) -> None:
    assert verify_bills() == "3 bills with 8 records verified: no difference.\n"


def test_the_command_fails_and_names_bill_invariant_and_amount(
    bills: Bills, behind_its_back: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    behind_its_back(TAMPERINGS["units of daily usage"][0])

    with pytest.raises(
        CommandError, match=r"3 bills with 8 records verified: 2 differences\."
    ) as e:
        call_command("verify_bills")

    assert e.value.returncode == 1
    day, total = capsys.readouterr().out.splitlines()
    assert day == (
        f"bill {bills['new']}: I5: daily usage of 'Database Hosting' at 0.05 on 2026-11-10 has"
        " 4 units in 1 record, the records have 3 in 1:"
        " off by +1 in units, +0 in records, +0.05 USD."
    )
    assert total == (
        f"bill {bills['new']}: I5: the total shown is 0.25, its records make 0.2: off by +0.05 USD."
    )


def test_the_command_looks_at_the_named_bills_alone(bills: Bills, behind_its_back: Any) -> None:
    behind_its_back(TAMPERINGS["units of a record"][0])

    with pytest.raises(CommandError, match="1 bill with 5 records"):
        verify_bills("--bill", str(bills["new"]))
    others = ["--bill", str(bills["old"]), "--bill", str(bills["bob"])]
    assert verify_bills(*others).startswith("2 bills with 3 records")


def test_the_command_looks_at_one_month_alone(bills: Bills, behind_its_back: Any) -> None:
    behind_its_back(TAMPERINGS["units of a record"][0])

    assert verify_bills("--month", "2026-10").startswith("1 bill with 2 records")
    with pytest.raises(CommandError, match="2 bills with 6 records"):
        verify_bills("--month", "2026-11")


@pytest.mark.parametrize("arguments", [["--bill", "987654"], ["--month", "October"]])
def test_the_command_refuses_what_it_could_not_verify(bills: Bills, arguments: list[str]) -> None:
    with pytest.raises(CommandError, match=r"There is no bill 987654|'October' is no month"):
        verify_bills(*arguments)
