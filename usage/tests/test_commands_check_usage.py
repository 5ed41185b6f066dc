"""`manage.py check_usage` keeps possible duplicates and prints all that needs attention."""

import datetime as dt
from decimal import Decimal

import pytest
from django.core.management import CommandError, call_command

from usage.models import ApiKey, Customer, PossibleDuplicates, Traffic, UsageCheck
from usage.tests.conftest import DatabaseClock
from usage.tests.staff import report

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def now(customer: Customer, database_clock: DatabaseClock) -> dt.datetime:
    return database_clock.set("2026-11-23T12:00:00Z")


def test_with_nothing_to_tell_it_counts_what_it_checked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for units in (1, 2, 3):
        report(units=Decimal(units))

    call_command("check_usage")

    said = "1 open bill with 3 records checked: 0 blocking, 0 informing.\n"
    assert capsys.readouterr().out == said


def test_what_blocks_is_printed_with_an_exit_status_of_its_own(
    now: dt.datetime, capsys: pytest.CaptureFixture[str]
) -> None:
    report(request_id="cdn:1", occurred_at=now)
    bill = report(request_id="cdn:2", occurred_at=now)

    with pytest.raises(CommandError, match="2 records checked: 1 blocking, 0 informing") as error:
        call_command("check_usage")

    assert error.value.returncode == 1
    assert capsys.readouterr().out == (
        f"Blocks: bill {bill.pk} of Alice (123), 2026-11: Possible duplicates"
        " of Database Hosting at 0.05 since 2026-11-23:"
        " 1 more of the same under other request_ids (2.9 USD) cdn:2 = cdn:1\n"
    )
    assert UsageCheck.objects.get().blocking == 1


def test_a_second_run_replaces_the_findings_of_the_first(now: dt.datetime) -> None:
    report(2, occurred_at=now)

    for _ in range(2):
        with pytest.raises(CommandError):
            call_command("check_usage")

    assert (PossibleDuplicates.objects.count(), UsageCheck.objects.count()) == (1, 1)


def test_what_informs_does_not_fail(now: dt.datetime, capsys: pytest.CaptureFixture[str]) -> None:
    api_key, _ = ApiKey.objects.issue(name="CDN")
    for back in range(4, 30):
        day = now.date() - dt.timedelta(days=back)
        Traffic.objects.create(api_key=api_key, day=day, created=1)

    call_command("check_usage")

    assert "Informs: " in (out := capsys.readouterr().out)
    assert "Silent API key since 2026-11-19: Silent for 4 days" in out
