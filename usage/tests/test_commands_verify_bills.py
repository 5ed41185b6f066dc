"""`manage.py verify_bills` says what it verified, and fails if anything differs."""

import io
from decimal import Decimal

import pytest
from django.core.management import CommandError, call_command
from django.db.models import QuerySet

from usage.models import DailyUsage
from usage.tests.billed import Bills, make_bills
from usage.tests.conftest import DatabaseClock

pytestmark = pytest.mark.django_db


@pytest.fixture
def bills(db: None, database_clock: DatabaseClock) -> Bills:
    return make_bills(database_clock)


@pytest.fixture
def tampered(bills: Bills) -> None:
    """One unit too many in Alice's open bill, which no guard can tell from usage that arrives."""
    rows = QuerySet[DailyUsage](DailyUsage).filter(
        bill=bills["new"], service="Database Hosting", units=3
    )
    assert rows.update(units=Decimal(4)) == 1


def verify_bills(*arguments: str) -> str:
    output = io.StringIO()
    call_command("verify_bills", *arguments, stdout=output)
    return output.getvalue()


def test_the_command_says_what_it_verified(bills: Bills) -> None:
    assert verify_bills() == "3 bills with 8 records verified: no difference.\n"


def test_the_command_fails_and_names_bill_invariant_and_amount(
    bills: Bills, tampered: None, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_the_command_looks_at_the_named_bills_alone(bills: Bills, tampered: None) -> None:
    with pytest.raises(CommandError, match="1 bill with 5 records"):
        verify_bills("--bill", str(bills["new"]))
    others = ["--bill", str(bills["old"]), "--bill", str(bills["bob"])]
    assert verify_bills(*others).startswith("2 bills with 3 records")


def test_the_command_looks_at_one_month_alone(bills: Bills, tampered: None) -> None:
    assert verify_bills("--month", "2026-10").startswith("1 bill with 2 records")
    with pytest.raises(CommandError, match="2 bills with 6 records"):
        verify_bills("--month", "2026-11")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bill", "987654"], "There is no bill 987654: give ids of existing bills."),
        (
            ["--bill", "99999999999999999999", "--bill", "-1"],
            "There is no bill -1, 99999999999999999999: give ids of existing bills.",
        ),
        (["--month", "October"], "'October' is not a month. Use YYYY-MM."),
        (["--month", "2026-09"], "There is no such bill of 2026-09: give a month that has one."),
    ],
)
def test_the_command_refuses_what_it_could_not_verify(
    bills: Bills, arguments: list[str], said: str
) -> None:
    with pytest.raises(CommandError) as error:
        verify_bills(*arguments)
    assert str(error.value) == said
    assert error.value.returncode == 2


def test_the_command_refuses_a_bill_that_is_not_of_the_month(bills: Bills) -> None:
    with pytest.raises(CommandError, match=r"^There is no such bill of 2026-11"):
        verify_bills("--bill", str(bills["old"]), "--month", "2026-11")
