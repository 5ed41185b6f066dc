"""`manage.py close_bills` closes what is due, one bill at a time, and reports what it could not."""

import errno
from decimal import Decimal
from io import StringIO
from unittest.mock import Mock

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from usage.attention.bills import examine
from usage.database.transactions import DatabaseUnavailable
from usage.ledger.close import CloseRefused, close
from usage.ledger.hold import hold
from usage.ledger.record import record
from usage.management.commands import close_bills
from usage.models import Bill, CommandRun, HistoryEntry
from usage.models.base import ActorRefused
from usage.tests.conftest import DatabaseClock
from usage.tests.factories import CustomerFactory, FactFactory

pytestmark = pytest.mark.django_db
IN_OCTOBER = "2026-10-20T12:00:00Z"
GRACE_ENDS = "2026-11-04T00:00:00Z"
AFTER_GRACE = "2026-11-04T00:00:00.001Z"


@pytest.fixture
def bills(db: None, database_clock: DatabaseClock) -> list[Bill]:
    """Three customers' bills of October, one of them in yen."""
    database_clock.set(IN_OCTOBER)
    for number, currency in ((1, "USD"), (2, "JPY"), (3, "USD")):
        CustomerFactory.create(id=number, name=f"No. {number}", currency=currency)
        fact = FactFactory.build(
            customer_id=number, units=Decimal("1.5"), price_per_unit=Decimal(7)
        )
        record([fact], reported_by_id=None)
    return list(Bill.objects.order_by("customer"))


def closed() -> list[int]:
    return list(Bill.objects.closed().order_by("pk").values_list("customer", flat=True))


def test_bills_whose_month_and_grace_are_over_are_closed(
    bills: list[Bill], database_clock: DatabaseClock, capsys: pytest.CaptureFixture[str]
) -> None:
    database_clock.set(AFTER_GRACE)

    call_command("close_bills")

    assert closed() == [1, 2, 3]
    assert capsys.readouterr().out.splitlines() == [
        f"Closed bill {bills[0].pk} of No. 1 (1), 2026-10: 10.50 USD",
        f"Closed bill {bills[1].pk} of No. 2 (2), 2026-10: 11 JPY",
        f"Closed bill {bills[2].pk} of No. 3 (3), 2026-10: 10.50 USD",
        "3 bills closed.",
    ]


def test_a_bill_that_is_closed_and_cannot_be_printed_is_not_called_left_open(
    bills: list[Bill], database_clock: DatabaseClock, capsys: pytest.CaptureFixture[str]
) -> None:
    database_clock.set(AFTER_GRACE)

    full_disk = Mock(write=Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))

    with pytest.raises(OSError, match="No space left"):
        call_command("close_bills", stdout=full_disk)

    assert closed() == [1]
    assert capsys.readouterr().err == ""
    run = CommandRun.objects.get()
    assert (run.exit_status, run.count) == (2, 1)


def test_a_bill_is_left_open_in_its_month_and_in_grace(
    bills: list[Bill], database_clock: DatabaseClock, capsys: pytest.CaptureFixture[str]
) -> None:
    for now in (IN_OCTOBER, "2026-11-01T00:00:00Z", GRACE_ENDS):
        database_clock.set(now)
        call_command("close_bills")
    assert closed() == []
    assert capsys.readouterr().out == ""


def test_a_dry_run_says_what_would_be_closed_and_closes_nothing(
    bills: list[Bill], database_clock: DatabaseClock, capsys: pytest.CaptureFixture[str]
) -> None:
    database_clock.set(AFTER_GRACE)

    call_command("close_bills", "--dry-run")

    assert closed() == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"Would close bill {bills[1].pk} of No. 2 (2), 2026-10: 11 JPY"
    assert lines[-1] == "3 bills would be closed."


def test_running_it_again_closes_nothing_more(
    bills: list[Bill], database_clock: DatabaseClock, capsys: pytest.CaptureFixture[str]
) -> None:
    database_clock.set(AFTER_GRACE)
    call_command("close_bills")
    before = list(Bill.objects.order_by("pk").values())

    call_command("close_bills")

    assert capsys.readouterr().out.endswith("\n3 bills closed.\n")
    assert list(Bill.objects.order_by("pk").values()) == before


@pytest.mark.parametrize(
    "failure", [CloseRefused("It is too large."), DatabaseUnavailable("It is locked.")]
)
def test_a_bill_that_fails_stops_no_other(
    failure: Exception,
    bills: list[Bill],
    database_clock: DatabaseClock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    database_clock.set(AFTER_GRACE)

    def close_but_the_second(bill: Bill, *, by: object, expected_total: None) -> bool:
        if bill.customer_id == 2:
            raise failure
        return close(bill, by=by)

    monkeypatch.setattr(close_bills, "close", close_but_the_second)

    with pytest.raises(CommandError, match="1 bill could not be closed") as error:
        call_command("close_bills")

    assert error.value.returncode == 1
    assert closed() == [1, 3]
    printed = capsys.readouterr()
    assert printed.err == f"Left open bill {bills[1].pk} of No. 2 (2), 2026-10: {failure}\n"
    assert printed.out.endswith("\n2 bills closed.\n")


def test_a_bill_that_somebody_else_closed_meanwhile_is_passed_over(
    bills: list[Bill],
    database_clock: DatabaseClock,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    database_clock.set(AFTER_GRACE)
    due = close_bills._due(except_flagged=False)
    first = next(due)
    assert close(Bill.objects.get(pk=first[0].pk), by="Sam")
    monkeypatch.setattr(close_bills, "_due", lambda **_: iter([first, *due]))

    call_command("close_bills")

    assert capsys.readouterr().out.endswith("\n2 bills closed.\n")
    assert closed() == [1, 2, 3]


def test_all_pages_of_due_bills_are_closed(
    bills: list[Bill], database_clock: DatabaseClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(close_bills, "_BILLS_AT_ONCE", 2)
    database_clock.set(AFTER_GRACE)

    call_command("close_bills")

    assert closed() == [1, 2, 3]


def test_months_long_past_are_due_too(bills: list[Bill], database_clock: DatabaseClock) -> None:
    database_clock.set("2028-03-01T00:00:00Z")

    call_command("close_bills")

    assert closed() == [1, 2, 3]


def test_a_dry_run_asks_once_for_the_lines_of_each_bill(
    bills: list[Bill],
    database_clock: DatabaseClock,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    database_clock.set(AFTER_GRACE)

    # Tables, migrations, zone and clock; two pages, unreadable; lines.
    with django_assert_num_queries(4 + 3 + len(bills)):
        call_command("close_bills", "--dry-run")


def test_the_history_says_that_the_command_closed_a_bill() -> None:
    call_command("loaddata", "sample_data", verbosity=0)

    call_command("close_bills", stdout=StringIO())

    closed = HistoryEntry.objects.values_list("bill__customer", "action", "actor")
    assert sorted(closed) == [(123, "closed", "close_bills"), (456, "closed", "close_bills")]


def test_a_bill_on_hold_is_left_open_and_named(
    bills: list[Bill], database_clock: DatabaseClock, capsys: pytest.CaptureFixture[str]
) -> None:
    hold(bills[1], by="Sam", reason="Disputed.")
    database_clock.set(AFTER_GRACE)

    call_command("close_bills")

    assert closed() == [1, 3]
    left = f"Left for staff bill {bills[1].pk} of No. 2 (2), 2026-10: on hold since 2026-10-20"
    assert f"{left}: Disputed." in capsys.readouterr().out.splitlines()


def test_flagged_bills_are_left_open_and_named_with_exit_status_3(
    bills: list[Bill], database_clock: DatabaseClock, capsys: pytest.CaptureFixture[str]
) -> None:
    hold(bills[1], by="Sam", reason="Disputed.")
    bills[0].possible_duplicates.create(
        service="x",
        price_per_unit=1,
        records=1,
        amount=7,
        pairs=[],
        since=database_clock.set(AFTER_GRACE),
    )

    with pytest.raises(CommandError, match=r"2 bills left for staff\.") as raised:
        call_command("close_bills", "--except-flagged")

    assert raised.value.returncode == 3
    assert closed() == [3]
    out = capsys.readouterr().out
    assert f"Left for staff bill {bills[0].pk} of No. 1 (1), 2026-10: Possible duplicates" in out
    assert HistoryEntry.objects.get(action="closed").detail == "Shown at 10.5, closed at 10.5 USD."


def test_without_flags_all_are_closed(bills: list[Bill], database_clock: DatabaseClock) -> None:
    database_clock.set(AFTER_GRACE)

    call_command("close_bills", "--except-flagged")

    assert closed() == [1, 2, 3]


def test_a_bill_that_changes_after_it_was_examined_is_left_for_staff(
    bills: list[Bill], database_clock: DatabaseClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change_and_examine(page: list[Bill], now: object) -> object:
        examined = examine(page, database_clock.set(AFTER_GRACE))
        database_clock.set(GRACE_ENDS)
        fact = FactFactory.build(customer_id=1, occurred_at=bills[0].period_start)
        record([fact], reported_by_id=None)
        database_clock.set(AFTER_GRACE)
        return examined

    database_clock.set(AFTER_GRACE)
    monkeypatch.setattr(close_bills, "examine", change_and_examine)

    with pytest.raises(CommandError, match="1 bill left for staff"):
        call_command("close_bills", "--except-flagged")

    assert closed() == [2, 3]


def test_each_bill_is_told_as_soon_as_it_is_closed(
    bills: list[Bill], database_clock: DatabaseClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    database_clock.set(AFTER_GRACE)
    told = []

    class Pipe(StringIO):
        def flush(self) -> None:
            told.append((self.getvalue().count("Closed bill"), len(closed())))

    call_command("close_bills", stdout=Pipe())

    assert told[:3] == [(1, 1), (2, 2), (3, 3)]


def test_a_member_of_staff_cannot_sign_as_the_command(bills: list[Bill]) -> None:
    user = User.objects.create_user("Close_Bills", is_staff=True)

    with pytest.raises(ActorRefused, match="is the name of a command"):
        close(bills[0], by=user)

    assert closed() == []
    assert not HistoryEntry.objects.exists()


def test_a_member_of_staff_named_like_the_command_sees_no_page(client: Client, db: None) -> None:
    client.force_login(User.objects.create_superuser("close_bills"))
    assert client.get("/admin/usage/bill/").status_code == 302
